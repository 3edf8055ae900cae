/* chat_eval.c: the walk over a chat template's tree. Names live in scopes: a loop's turn and a macro's call have their
 * own, an `if` has none. Every step is counted, every level too, so that each template ends. */
#include "io/chat_internal.h"

#include <math.h>

enum { MAX_DEPTH = 400 };

static vmoer_status eval(vm_render *r, vm_scope *scope, const vm_node *n, vm_value *out);
static vmoer_status run_body(vm_render *r, vm_scope *scope, const vm_node *first);

/* ---- names ---- */

static vmoer_status assign(vm_render *r, vm_scope *scope, vm_piece name, vm_value value) {
    struct vm_variable *v = scope->variables;
    for (; v && !vm_piece_equal(v->name, name); v = v->next) VM_TRY(vm_chat_charge(r, 0));
    if (!v) {
        VM_TRY(vm_chat_alloc(r, 1, sizeof *v, (void **)&v));
        *v = (struct vm_variable){.name = name, .next = scope->variables};
        scope->variables = v;
    }
    v->value = value;
    return VMOER_OK;
}

static vmoer_status look_up(vm_render *r, const vm_scope *scope, vm_piece name, vm_value *out) {
    for (; scope; scope = scope->parent) {
        for (const struct vm_variable *v = scope->variables; v; v = v->next) {
            VM_TRY(vm_chat_charge(r, 0));
            if (!vm_piece_equal(v->name, name)) continue;
            *out = v->value;
            return VMOER_OK;
        }
    }
    *out = vm_value_undefined(name);
    if (vm_chat_is_function(name)) out->kind = VM_VALUE_FUNCTION;
    return VMOER_OK;
}

static vmoer_status new_scope(vm_render *r, vm_scope *parent, vm_scope **out) {
    VM_TRY(vm_chat_alloc(r, 1, sizeof **out, (void **)out));
    **out = (vm_scope){.parent = parent};
    return VMOER_OK;
}

/* A name, a tuple of names or an attribute of a namespace. */
static vmoer_status bind_target(vm_render *r, vm_scope *scope, const vm_node *target, vm_value value) {
    vm_value space;
    if (target->kind == VM_NODE_NAME) return assign(r, scope, target->text, value);
    if (target->kind == VM_NODE_ATTRIBUTE) {
        VM_TRY(look_up(r, scope, target->a->text, &space));
        if (space.kind != VM_VALUE_NAMESPACE)
            return vm_error(VMOER_ERROR_DATA, "set: '%.*s' is %s, not a namespace", VM_PIECE(target->a->text),
                            vm_value_kind_name(space));
        return vm_dict_set(r, space.dict, target->text, value);
    }
    const vm_value *items;
    size_t count, n = 0;
    VM_TRY(vm_value_items(r, value, &items, &count));
    for (const vm_node *t = target->list; t; t = t->next, n++) {
        if (n < count) VM_TRY(assign(r, scope, t->text, items[n]));
    }
    if (n != count) return vm_error(VMOER_ERROR_DATA, "%zu values for %zu names", count, n);
    return VMOER_OK;
}

/* ---- arithmetic ---- */

static bool is_integer(vm_value v) { return v.kind == VM_VALUE_INT || v.kind == VM_VALUE_BOOL; }
static int64_t to_integer(vm_value v) { return v.kind == VM_VALUE_BOOL ? v.b : v.i; }
static double to_double(vm_value v) { return v.kind == VM_VALUE_FLOAT ? v.f : (double)to_integer(v); }

static vmoer_status too_large(void) { return vm_error(VMOER_ERROR_LIMIT, "a number of more than 64 bits"); }

static vmoer_status power(vm_render *r, int64_t base, int64_t exponent, vm_value *out) {
    int64_t result = 1;
    if (exponent < 0) return vm_error(VMOER_ERROR_UNSUPPORTED, "a negative power");
    if (base >= -1 && base <= 1 && exponent > 2) exponent = 2 - exponent % 2; /* the same: it goes round */
    for (; exponent > 0; exponent--) {
        VM_TRY(vm_chat_charge(r, 0));
        if (__builtin_mul_overflow(result, base, &result)) return too_large();
    }
    *out = vm_value_int(result);
    return VMOER_OK;
}

static vmoer_status integers(vm_render *r, int op, int64_t a, int64_t b, vm_value *out) {
    int64_t result = 0;
    bool overflow = false, divides = op == VM_OP('/', '/') || op == '%' || op == '/';
    if (divides && b == 0) return vm_error(VMOER_ERROR_DATA, "a division by zero");
    if (op == '/') return *out = (vm_value){.kind = VM_VALUE_FLOAT, .f = (double)a / (double)b}, VMOER_OK;
    if (op == VM_OP('*', '*')) return power(r, a, b, out);
    if (op == '+') overflow = __builtin_add_overflow(a, b, &result);
    if (op == '-') overflow = __builtin_sub_overflow(a, b, &result);
    if (op == '*') overflow = __builtin_mul_overflow(a, b, &result);
    if (divides && b == -1) {
        if (op != '%') overflow = __builtin_sub_overflow((int64_t)0, a, &result);
    } else if (divides) { /* rounded down, as Python does: the remainder has the divisor's sign */
        int64_t quotient = a / b, remainder = a % b;
        bool lower = remainder && (remainder < 0) != (b < 0);
        result = op == '%' ? remainder + (lower ? b : 0) : quotient - lower;
    }
    *out = vm_value_int(result);
    return overflow ? too_large() : VMOER_OK;
}

static vmoer_status doubles(int op, double a, double b, vm_value *out) {
    double result;
    if ((op == '/' || op == '%' || op == VM_OP('/', '/')) && b == 0)
        return vm_error(VMOER_ERROR_DATA, "a division by zero");
    switch (op) {
    case '+':
        result = a + b;
        break;
    case '-':
        result = a - b;
        break;
    case '*':
        result = a * b;
        break;
    case '/':
        result = a / b;
        break;
    default:
        return vm_error(VMOER_ERROR_UNSUPPORTED, "//, %% and ** of floats are not supported");
    }
    *out = (vm_value){.kind = VM_VALUE_FLOAT, .f = result};
    return VMOER_OK;
}

static vmoer_status repeat(vm_render *r, vm_piece s, int64_t times, vm_value *out) {
    size_t length;
    char *text, *given = NULL;
    if (times < 0 || !s.length) times = 0;
    if (!vm_mul(s.length, (size_t)times, &length)) length = SIZE_MAX;
    VM_TRY(vm_chat_alloc(r, length, 1, (void **)&text));
    if (s.given) VM_TRY(vm_chat_alloc(r, length, 1, (void **)&given));
    VM_TRY(vm_chat_charge(r, length));
    for (size_t at = 0; at < length; at += s.length) {
        memcpy(text + at, s.text, s.length);
        if (given) memcpy(given + at, s.given, s.length);
    }
    *out = vm_value_string((vm_piece){text, length, given});
    return VMOER_OK;
}

static vmoer_status binary(vm_render *r, int op, vm_value a, vm_value b, vm_value *out) {
    if (op == '~') {
        vm_piece left, right;
        VM_TRY(vm_value_text(r, a, &left));
        VM_TRY(vm_value_text(r, b, &right));
        return vm_text_concat(r, left, right, out);
    }
    if (is_integer(a) && is_integer(b)) return integers(r, op, to_integer(a), to_integer(b), out);
    if ((is_integer(a) || a.kind == VM_VALUE_FLOAT) && (is_integer(b) || b.kind == VM_VALUE_FLOAT))
        return doubles(op, to_double(a), to_double(b), out);
    if (op == '+' && a.kind == VM_VALUE_STRING && b.kind == VM_VALUE_STRING) return vm_text_concat(r, a.s, b.s, out);
    if (op == '*' && a.kind == VM_VALUE_STRING && is_integer(b)) return repeat(r, a.s, to_integer(b), out);
    if (op == '*' && b.kind == VM_VALUE_STRING && is_integer(a)) return repeat(r, b.s, to_integer(a), out);
    if (op == '+' && a.kind == VM_VALUE_LIST && b.kind == VM_VALUE_LIST && a.list->form == b.list->form &&
        a.list->form <= VM_TUPLE) {
        vm_value *items;
        VM_TRY(vm_chat_alloc(r, a.list->count + b.list->count, sizeof *items, (void **)&items));
        if (a.list->count) memcpy(items, a.list->items, a.list->count * sizeof *items);
        if (b.list->count) memcpy(items + a.list->count, b.list->items, b.list->count * sizeof *items);
        return vm_value_list(r, a.list->form, items, a.list->count + b.list->count, out);
    }
    for (int i = 0; i < 2; i++) {
        vm_value v = i ? b : a;
        if (v.kind == VM_VALUE_UNDEFINED && v.s.length)
            return vm_error(VMOER_ERROR_DATA, "'%.*s' is undefined", VM_PIECE(v.s));
    }
    char name[3] = {(char)(op & 255), (char)(op >> 8), 0};
    return vm_error(VMOER_ERROR_DATA, "%s %s %s is not possible", vm_value_kind_name(a), name, vm_value_kind_name(b));
}

static vmoer_status sign(vm_value v, bool negative, vm_value *out) {
    if (v.kind == VM_VALUE_FLOAT)
        return *out = (vm_value){.kind = VM_VALUE_FLOAT, .f = negative ? -v.f : v.f}, VMOER_OK;
    if (!is_integer(v)) return vm_error(VMOER_ERROR_DATA, "%s has no sign", vm_value_kind_name(v));
    if (negative && to_integer(v) == INT64_MIN) return too_large();
    *out = vm_value_int(negative ? -to_integer(v) : to_integer(v));
    return VMOER_OK;
}

static vmoer_status compare(vm_render *r, vm_scope *scope, const vm_node *n, vm_value *out) {
    vm_value left, right;
    bool yes = true;
    int order;
    VM_TRY(eval(r, scope, n->a, &left));
    for (const vm_node *operand = n->list; operand && yes; operand = operand->next, left = right) {
        int op = operand->op;
        VM_TRY(eval(r, scope, operand->a, &right));
        r->line = operand->line;
        if (op == 'i' || op == 'n') {
            VM_TRY(vm_value_in(r, left, right, &yes));
            yes ^= op == 'n';
        } else if (op == VM_OP('=', '=') || op == VM_OP('!', '=')) {
            VM_TRY(vm_value_equal(r, left, right, &yes));
            yes ^= op != VM_OP('=', '=');
        } else {
            VM_TRY(vm_value_order(r, left, right, &order));
            yes = op == '<' ? order < 0 : op == '>' ? order > 0 : op == VM_OP('<', '=') ? order <= 0 : order >= 0;
        }
    }
    *out = vm_value_bool(yes);
    return VMOER_OK;
}

/* ---- calls ---- */

static vmoer_status eval_arguments(vm_render *r, vm_scope *scope, const vm_node *first, vm_arguments *args) {
    args->count = 0;
    for (const vm_node *n = first; n; n = n->next) { /* the parser counted them */
        bool keyword = n->kind == VM_NODE_KEYWORD;
        args->names[args->count] = keyword ? n->text : vm_piece_own(NULL, 0);
        VM_TRY(eval(r, scope, keyword ? n->a : n, &args->values[args->count]));
        args->count++;
    }
    return VMOER_OK;
}

/* Runs a body into a string of its own. */
static vmoer_status capture(vm_render *r, vm_scope *scope, const vm_node *body, vm_value *out) {
    size_t start = r->out.length;
    VM_TRY(run_body(r, scope, body));
    VM_TRY(vm_text_copy(r, vm_buffer_piece(&r->out, start), out));
    r->out.length = start;
    return VMOER_OK;
}

static vmoer_status call_macro(vm_render *r, const vm_macro *m, const vm_arguments *args, vm_value *out) {
    vm_scope *scope;
    int given = 0, n = 0;
    VM_TRY(new_scope(r, m->scope, &scope));
    for (const vm_node *p = m->node->a->list; p; p = p->next, n++) {
        vm_value value = {.kind = VM_VALUE_MISSING};
        for (int i = 0; i < args->count; i++) {
            if (args->names[i].text ? !vm_piece_equal(args->names[i], p->text) : i != n) continue;
            if (value.kind != VM_VALUE_MISSING)
                return vm_error(VMOER_ERROR_DATA, "%.*s: two values for '%.*s'", VM_PIECE(m->node->text),
                                VM_PIECE(p->text));
            value = args->values[i];
            given++;
        }
        if (value.kind == VM_VALUE_MISSING) value = vm_value_undefined(p->text);
        if (value.kind == VM_VALUE_UNDEFINED && p->a) VM_TRY(eval(r, scope, p->a, &value));
        VM_TRY(assign(r, scope, p->text, value));
    }
    if (given < args->count)
        return vm_error(VMOER_ERROR_DATA, "%.*s: an argument that the macro does not have", VM_PIECE(m->node->text));
    return capture(r, scope, m->node->list, out);
}

static vmoer_status call(vm_render *r, vm_scope *scope, const vm_node *n, vm_value *out) {
    vm_value callee;
    vm_arguments args;
    VM_TRY(eval(r, scope, n->a, &callee));
    VM_TRY(eval_arguments(r, scope, n->list, &args));
    r->line = n->line;
    if (callee.kind == VM_VALUE_MACRO) return call_macro(r, callee.macro, &args, out);
    if (callee.kind == VM_VALUE_FUNCTION) return vm_chat_function(r, callee.s, &args, out);
    if (callee.kind == VM_VALUE_METHOD) return vm_chat_method(r, callee.method, &args, out);
    if (callee.kind == VM_VALUE_UNDEFINED && callee.s.length)
        return vm_error(VMOER_ERROR_DATA, "'%.*s' is undefined and is called", VM_PIECE(callee.s));
    return vm_error(VMOER_ERROR_DATA, "%s is called", vm_value_kind_name(callee));
}

static vmoer_status call_filter(vm_render *r, vm_scope *scope, const vm_node *n, vm_value *out) {
    vm_value v;
    vm_arguments args;
    VM_TRY(eval(r, scope, n->a, &v));
    VM_TRY(eval_arguments(r, scope, n->list, &args));
    r->line = n->line;
    return vm_chat_filter(r, n->text, v, &args, out);
}

static vmoer_status call_test(vm_render *r, vm_scope *scope, const vm_node *n, vm_value *out) {
    vm_value v;
    vm_arguments args;
    bool yes = false;
    VM_TRY(eval(r, scope, n->a, &v));
    VM_TRY(eval_arguments(r, scope, n->list, &args));
    r->line = n->line;
    VM_TRY(vm_chat_test(r, n->text, v, &args, &yes));
    *out = vm_value_bool(yes != (n->op != 0));
    return VMOER_OK;
}

/* ---- expressions ---- */

static vmoer_status make_list(vm_render *r, vm_scope *scope, const vm_node *n, vm_value *out) {
    size_t count = 0, i = 0;
    vm_value *items;
    for (const vm_node *e = n->list; e; e = e->next) count++;
    VM_TRY(vm_chat_alloc(r, count, sizeof *items, (void **)&items));
    for (const vm_node *e = n->list; e; e = e->next) VM_TRY(eval(r, scope, e, &items[i++]));
    return vm_value_list(r, n->kind == VM_NODE_LIST ? VM_LIST : VM_TUPLE, items, count, out);
}

static vmoer_status make_dict(vm_render *r, vm_scope *scope, const vm_node *n, vm_value *out) {
    VM_TRY(vm_value_dict(r, 0, out));
    for (const vm_node *e = n->list; e; e = e->next->next) {
        vm_value key, value;
        VM_TRY(eval(r, scope, e, &key));
        VM_TRY(eval(r, scope, e->next, &value));
        if (key.kind != VM_VALUE_STRING)
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%s as a key of a dict", vm_value_kind_name(key));
        VM_TRY(vm_dict_set(r, out->dict, key.s, value));
    }
    return VMOER_OK;
}

static vmoer_status slice(vm_render *r, vm_scope *scope, const vm_node *n, vm_value *out) {
    vm_value v, bounds[3];
    const vm_node *const nodes[3] = {n->b, n->c, n->d};
    VM_TRY(eval(r, scope, n->a, &v));
    for (int i = 0; i < 3; i++) {
        bounds[i] = (vm_value){.kind = VM_VALUE_NONE};
        if (nodes[i]) VM_TRY(eval(r, scope, nodes[i], &bounds[i]));
    }
    r->line = n->line;
    return vm_value_slice(r, v, bounds, out);
}

static vmoer_status eval_operation(vm_render *r, vm_scope *scope, const vm_node *n, vm_value *out) {
    vm_value a, b;
    VM_TRY(eval(r, scope, n->a, &a));
    if (n->kind == VM_NODE_CONDITIONAL) {
        const vm_node *chosen = vm_value_true(a) ? n->b : n->c;
        if (chosen) return eval(r, scope, chosen, out);
        *out = vm_value_undefined(vm_piece_own("", 0));
        return VMOER_OK;
    }
    if ((n->kind == VM_NODE_AND && !vm_value_true(a)) || (n->kind == VM_NODE_OR && vm_value_true(a)))
        return *out = a, VMOER_OK;
    if (n->kind == VM_NODE_AND || n->kind == VM_NODE_OR) return eval(r, scope, n->b, out);
    if (n->kind == VM_NODE_NOT) return *out = vm_value_bool(!vm_value_true(a)), VMOER_OK;
    r->line = n->line;
    if (n->kind == VM_NODE_ATTRIBUTE) return vm_value_attribute(r, a, n->text, out);
    if (n->kind == VM_NODE_NEGATE || n->kind == VM_NODE_PLUS) return sign(a, n->kind == VM_NODE_NEGATE, out);
    VM_TRY(eval(r, scope, n->b, &b));
    r->line = n->line;
    return n->kind == VM_NODE_ITEM ? vm_value_item(r, a, b, out) : binary(r, n->op, a, b, out);
}

static vmoer_status enter(vm_render *r) {
    VM_TRY(vm_chat_charge(r, 0));
    if (++r->depth <= MAX_DEPTH) return VMOER_OK;
    return vm_error(VMOER_ERROR_LIMIT, "the template goes more than %d levels deep", MAX_DEPTH);
}

static vmoer_status eval_node(vm_render *r, vm_scope *scope, const vm_node *n, vm_value *out) {
    switch (n->kind) {
    case VM_NODE_NONE:
        *out = (vm_value){.kind = VM_VALUE_NONE};
        return VMOER_OK;
    case VM_NODE_BOOL:
        *out = vm_value_bool(n->i != 0);
        return VMOER_OK;
    case VM_NODE_INT:
        *out = vm_value_int(n->i);
        return VMOER_OK;
    case VM_NODE_FLOAT:
        *out = (vm_value){.kind = VM_VALUE_FLOAT, .f = n->f};
        return VMOER_OK;
    case VM_NODE_STRING:
        *out = vm_value_string(n->text);
        return VMOER_OK;
    case VM_NODE_NAME:
        return look_up(r, scope, n->text, out);
    case VM_NODE_LIST:
    case VM_NODE_TUPLE:
        return make_list(r, scope, n, out);
    case VM_NODE_DICT:
        return make_dict(r, scope, n, out);
    case VM_NODE_SLICE:
        return slice(r, scope, n, out);
    case VM_NODE_CALL:
        return call(r, scope, n, out);
    case VM_NODE_FILTER:
        return call_filter(r, scope, n, out);
    case VM_NODE_TEST:
        return call_test(r, scope, n, out);
    case VM_NODE_COMPARE:
        return compare(r, scope, n, out);
    default:
        return eval_operation(r, scope, n, out);
    }
}

static vmoer_status eval(vm_render *r, vm_scope *scope, const vm_node *n, vm_value *out) {
    r->line = n->line;
    VM_TRY(enter(r));
    VM_TRY(eval_node(r, scope, n, out));
    r->depth--;
    return VMOER_OK;
}

/* ---- statements ---- */

static vmoer_status run_if(vm_render *r, vm_scope *scope, const vm_node *n) {
    while (n && n->kind == VM_NODE_IF) {
        vm_value condition;
        VM_TRY(eval(r, scope, n->a, &condition));
        if (vm_value_true(condition)) return run_body(r, scope, n->list);
        n = n->b;
    }
    return n ? run_body(r, scope, n->list) : VMOER_OK;
}

/* The items for which the loop's own condition holds. */
static vmoer_status filtered(vm_render *r, vm_scope *scope, const vm_node *n, const vm_value **items, size_t *count) {
    vm_value *kept, yes;
    size_t n_kept = 0;
    VM_TRY(vm_chat_alloc(r, *count, sizeof *kept, (void **)&kept));
    for (size_t i = 0; i < *count; i++) {
        vm_scope *turn;
        VM_TRY(new_scope(r, scope, &turn));
        VM_TRY(bind_target(r, turn, n->a, (*items)[i]));
        VM_TRY(eval(r, turn, n->c, &yes));
        if (vm_value_true(yes)) kept[n_kept++] = (*items)[i];
    }
    *items = kept;
    *count = n_kept;
    return VMOER_OK;
}

static vmoer_status run_for(vm_render *r, vm_scope *scope, const vm_node *n) {
    vm_value all;
    const vm_value *items;
    size_t count;
    vm_scope *turn;
    vm_loop *loop;
    VM_TRY(eval(r, scope, n->b, &all));
    r->line = n->line;
    VM_TRY(vm_value_items(r, all, &items, &count));
    if (n->c) VM_TRY(filtered(r, scope, n, &items, &count));
    if (!count && n->d) {
        VM_TRY(new_scope(r, scope, &turn));
        return run_body(r, turn, n->d->list);
    }
    VM_TRY(vm_chat_alloc(r, 1, sizeof *loop, (void **)&loop));
    *loop = (vm_loop){.count = count, .items = items};
    for (; loop->index < count && r->flow != VM_FLOW_BREAK; loop->index++) {
        r->flow = VM_FLOW_ON;
        r->line = n->line;
        VM_TRY(vm_chat_charge(r, 0));
        VM_TRY(new_scope(r, scope, &turn));
        VM_TRY(assign(r, turn, vm_piece_own("loop", 4), (vm_value){.kind = VM_VALUE_LOOP, .loop = loop}));
        VM_TRY(bind_target(r, turn, n->a, items[loop->index]));
        VM_TRY(run_body(r, turn, n->list));
    }
    r->flow = VM_FLOW_ON;
    return VMOER_OK;
}

static vmoer_status run_statement(vm_render *r, vm_scope *scope, const vm_node *n) {
    vm_value v;
    vm_scope *inner;
    vm_macro *macro;
    r->line = n->line;
    switch (n->kind) {
    case VM_NODE_TEXT:
        return vm_buffer_add(r, &r->out, n->text);
    case VM_NODE_PRINT:
        VM_TRY(eval(r, scope, n->a, &v));
        return vm_value_print(r, &r->out, v);
    case VM_NODE_IF:
        return run_if(r, scope, n);
    case VM_NODE_FOR:
        return run_for(r, scope, n);
    case VM_NODE_SET:
        VM_TRY(eval(r, scope, n->b, &v));
        return bind_target(r, scope, n->a, v);
    case VM_NODE_SET_BODY:
        VM_TRY(new_scope(r, scope, &inner));
        VM_TRY(capture(r, inner, n->list, &v));
        return bind_target(r, scope, n->a, v);
    case VM_NODE_MACRO:
        VM_TRY(vm_chat_alloc(r, 1, sizeof *macro, (void **)&macro));
        *macro = (vm_macro){n, scope};
        return assign(r, scope, n->text, (vm_value){.kind = VM_VALUE_MACRO, .macro = macro});
    case VM_NODE_BREAK:
        r->flow = VM_FLOW_BREAK;
        return VMOER_OK;
    case VM_NODE_CONTINUE:
        r->flow = VM_FLOW_CONTINUE;
        return VMOER_OK;
    default: /* generation: a scope of its own */
        VM_TRY(new_scope(r, scope, &inner));
        return run_body(r, inner, n->list);
    }
}

static vmoer_status run_body(vm_render *r, vm_scope *scope, const vm_node *first) {
    VM_TRY(enter(r));
    for (const vm_node *n = first; n && r->flow == VM_FLOW_ON; n = n->next) {
        VM_TRY(vm_chat_charge(r, 0));
        VM_TRY(run_statement(r, scope, n));
    }
    r->depth--;
    return VMOER_OK;
}

static vmoer_status render(vm_render *r, const vm_chat_template *t, const json_t *variables) {
    vm_value all;
    vm_scope *given, *root;
    VM_TRY(vm_value_from_json(r, variables, 0, &all));
    if (all.kind != VM_VALUE_DICT)
        return vm_error(VMOER_ERROR_ARGUMENT, "the variables are %s, not a dict", vm_value_kind_name(all));
    VM_TRY(new_scope(r, NULL, &given));
    VM_TRY(new_scope(r, given, &root));
    for (size_t i = 0; i < all.dict->count; i++) VM_TRY(assign(r, given, all.dict->keys[i], all.dict->values[i]));
    VM_TRY(vm_buffer_add(r, &r->out, vm_piece_own("", 0)));
    return run_body(r, root, t->root->list);
}

void vm_chat_text_free(vm_chat_text *text) {
    vm_free(text->text);
    vm_free(text->given);
    *text = (vm_chat_text){0};
}

vmoer_status vm_chat_template_render(const vm_chat_template *t, const json_t *variables, const struct tm *now,
                                     vm_chat_text *out) {
    vm_render r = {.arena = vm_arena_create(), .line = 1, .now = now};
    vmoer_status status =
        r.arena ? render(&r, t, variables) : vm_error(VMOER_ERROR_MEMORY, "no memory for the template's values");
    vm_arena_free(r.arena);
    if (status != VMOER_OK) {
        vm_buffer_free(&r.out);
        return vm_error_in(status, "line %d", r.line);
    }
    *out = (vm_chat_text){r.out.text, r.out.given, r.out.length};
    out->text[out->length] = '\0';
    return VMOER_OK;
}
