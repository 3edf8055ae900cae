/* chat_parse.c: a chat template's tokens to a tree, by recursive descent with Jinja's precedences: conditional, or,
 * and, not, comparisons, + -, ~, * / // %, **, sign; filters, tests and calls bind to the operand before them. */
#include "io/chat_internal.h"

#include <errno.h>
#include <stdlib.h>

typedef struct parser {
    vm_arena *arena;
    const vm_chat_token *at;
    int depth, loops; /* open levels; loops around, for break */
} parser;

static vmoer_status parse_expression(parser *p, vm_node **out);
static vmoer_status parse_tuple(parser *p, bool conditional, vm_node **out);
static vmoer_status parse_body(parser *p, const char *ends, vm_node **out);

static vmoer_status fail(const parser *p, const char *wanted) {
    const vm_chat_token *t = p->at;
    if (t->kind == VM_TOKEN_END)
        return vm_error(VMOER_ERROR_FORMAT, "line %d: the template ends, %s expected", t->line, wanted);
    if (t->kind == VM_TOKEN_PRINT_END || t->kind == VM_TOKEN_BLOCK_END)
        return vm_error(VMOER_ERROR_FORMAT, "line %d: the tag ends, %s expected", t->line, wanted);
    return vm_error(VMOER_ERROR_FORMAT, "line %d: '%.*s', %s expected", t->line, VM_PIECE(t->text), wanted);
}

static vmoer_status node(const parser *p, vm_node_kind kind, vm_node **out) {
    vm_node *n = vm_arena_alloc(p->arena, 1, sizeof *n);
    if (!n) return vm_error(VMOER_ERROR_MEMORY, "no memory for the template's tree");
    *n = (vm_node){.kind = kind, .line = p->at->line};
    *out = n;
    return VMOER_OK;
}

/* A node over what was parsed so far, which becomes its operand a. */
static vmoer_status wrap(const parser *p, vm_node_kind kind, vm_node **left, vm_node **out) {
    VM_TRY(node(p, kind, out));
    (*out)->a = *left;
    *left = *out;
    return VMOER_OK;
}

static bool is_op(const parser *p, int op) { return p->at->kind == VM_TOKEN_OPERATOR && p->at->op == op; }
static bool is_word(const parser *p, const char *word) {
    return p->at->kind == VM_TOKEN_NAME && vm_piece_is(p->at->text, word);
}
static bool take_op(parser *p, int op) { return is_op(p, op) ? p->at++, true : false; }
static bool take_word(parser *p, const char *word) { return is_word(p, word) ? p->at++, true : false; }
static vmoer_status want_op(parser *p, int op) {
    return take_op(p, op) ? VMOER_OK : fail(p, (const char[]){'\'', (char)op, '\'', '\0'});
}
static vmoer_status want_name(parser *p, vm_piece *out) {
    if (p->at->kind != VM_TOKEN_NAME) return fail(p, "a name");
    *out = (p->at++)->text;
    return VMOER_OK;
}
static vmoer_status enter(parser *p) {
    if (++p->depth > VM_CHAT_DEPTH)
        return vm_error(VMOER_ERROR_LIMIT, "line %d: more than %d levels deep", p->at->line, VM_CHAT_DEPTH);
    return VMOER_OK;
}

/* ---- expressions ---- */

static vmoer_status parse_arguments(parser *p, vm_node **out) { /* behind the ( */
    vm_node **tail = out;
    int count = 0;
    bool keyword = false;
    while (!is_op(p, ')')) {
        vm_node *n;
        if (++count > VM_CHAT_ARGUMENTS)
            return vm_error(VMOER_ERROR_LIMIT, "line %d: more than %d arguments", p->at->line, VM_CHAT_ARGUMENTS);
        if (p->at->kind == VM_TOKEN_NAME && p->at[1].kind == VM_TOKEN_OPERATOR && p->at[1].op == '=') {
            VM_TRY(node(p, VM_NODE_KEYWORD, &n));
            n->text = p->at->text;
            p->at += 2;
            VM_TRY(parse_expression(p, &n->a));
            keyword = true;
        } else {
            if (keyword) return fail(p, "an argument with its name");
            VM_TRY(parse_expression(p, &n));
        }
        *tail = n;
        tail = &n->next;
        if (!take_op(p, ',')) break;
    }
    return want_op(p, ')');
}

static vmoer_status parse_elements(parser *p, int end, vm_node **out) { /* behind the [ */
    vm_node **tail = out;
    while (!is_op(p, end)) {
        VM_TRY(parse_expression(p, tail));
        tail = &(*tail)->next;
        if (!take_op(p, ',')) break;
    }
    return want_op(p, end);
}

static vmoer_status parse_pairs(parser *p, vm_node **out) { /* behind the { */
    vm_node **tail = out;
    while (!is_op(p, '}')) {
        VM_TRY(parse_expression(p, tail));
        VM_TRY(want_op(p, ':'));
        tail = &(*tail)->next;
        VM_TRY(parse_expression(p, tail));
        tail = &(*tail)->next;
        if (!take_op(p, ',')) break;
    }
    return want_op(p, '}');
}

static vmoer_status parse_number(parser *p, vm_node **out) {
    char digits[64];
    bool real = p->at->kind == VM_TOKEN_FLOAT;
    if (p->at->text.length >= sizeof digits)
        return vm_error(VMOER_ERROR_LIMIT, "line %d: a number of %zu digits", p->at->line, p->at->text.length);
    memcpy(digits, p->at->text.text, p->at->text.length);
    digits[p->at->text.length] = '\0';
    VM_TRY(node(p, real ? VM_NODE_FLOAT : VM_NODE_INT, out));
    errno = 0;
    if (real)
        (*out)->f = strtod(digits, NULL);
    else
        (*out)->i = strtoll(digits, NULL, 10);
    if (!real && errno) return vm_error(VMOER_ERROR_LIMIT, "line %d: %s has more than 64 bits", p->at->line, digits);
    p->at++;
    return VMOER_OK;
}

static vmoer_status parse_strings(parser *p, vm_node **out) { /* neighbours are one */
    VM_TRY(node(p, VM_NODE_STRING, out));
    size_t length = 0, at = 0;
    const vm_chat_token *first = p->at;
    for (; p->at->kind == VM_TOKEN_STRING; p->at++) length += p->at->text.length;
    char *text = vm_arena_alloc(p->arena, length, 1);
    if (!text) return vm_error(VMOER_ERROR_MEMORY, "no memory for the template's strings");
    for (const vm_chat_token *t = first; t < p->at; at += (t++)->text.length)
        memcpy(text + at, t->text.text, t->text.length);
    (*out)->text = vm_piece_own(text, length);
    return VMOER_OK;
}

static vmoer_status parse_primary(parser *p, vm_node **out) {
    const vm_chat_token *t = p->at;
    if (t->kind == VM_TOKEN_STRING) return parse_strings(p, out);
    if (t->kind == VM_TOKEN_INT || t->kind == VM_TOKEN_FLOAT) return parse_number(p, out);
    if (t->kind == VM_TOKEN_NAME) {
        bool yes = is_word(p, "true") || is_word(p, "True"), no = is_word(p, "false") || is_word(p, "False");
        bool none = is_word(p, "none") || is_word(p, "None");
        VM_TRY(node(p, yes || no ? VM_NODE_BOOL : none ? VM_NODE_NONE : VM_NODE_NAME, out));
        (*out)->text = t->text;
        (*out)->i = yes;
        p->at++;
        return VMOER_OK;
    }
    if (take_op(p, '(')) {
        if (is_op(p, ')'))
            VM_TRY(node(p, VM_NODE_TUPLE, out));
        else
            VM_TRY(parse_tuple(p, true, out));
        return want_op(p, ')');
    }
    if (is_op(p, '[')) {
        VM_TRY(node(p, VM_NODE_LIST, out));
        p->at++;
        return parse_elements(p, ']', &(*out)->list);
    }
    if (is_op(p, '{')) {
        VM_TRY(node(p, VM_NODE_DICT, out));
        p->at++;
        return parse_pairs(p, &(*out)->list);
    }
    return fail(p, "an expression");
}

static vmoer_status parse_subscript(parser *p, vm_node **left) { /* behind the [ */
    vm_node *n, **bound[3];
    VM_TRY(wrap(p, VM_NODE_ITEM, left, &n));
    bound[0] = &n->b, bound[1] = &n->c, bound[2] = &n->d;
    if (!is_op(p, ':')) VM_TRY(parse_expression(p, &n->b));
    for (int i = 1; i < 3 && take_op(p, ':'); i++) {
        n->kind = VM_NODE_SLICE;
        if (!is_op(p, ':') && !is_op(p, ']')) VM_TRY(parse_expression(p, bound[i]));
    }
    return want_op(p, ']');
}

static vmoer_status parse_call(parser *p, vm_node **left) { /* at the ( */
    vm_node *n;
    VM_TRY(wrap(p, VM_NODE_CALL, left, &n));
    p->at++;
    return parse_arguments(p, &n->list);
}

static vmoer_status parse_postfix(parser *p, vm_node **left) {
    for (;;) {
        vm_node *n;
        if (take_op(p, '.')) {
            if (p->at->kind == VM_TOKEN_INT) {
                VM_TRY(wrap(p, VM_NODE_ITEM, left, &n));
                VM_TRY(parse_number(p, &n->b));
            } else {
                VM_TRY(wrap(p, VM_NODE_ATTRIBUTE, left, &n));
                VM_TRY(want_name(p, &n->text));
            }
        } else if (take_op(p, '[')) {
            VM_TRY(parse_subscript(p, left));
        } else if (is_op(p, '(')) {
            VM_TRY(parse_call(p, left));
        } else {
            return VMOER_OK;
        }
    }
}

static vmoer_status parse_test(parser *p, vm_node **left) { /* behind the `is` */
    vm_node *n;
    VM_TRY(wrap(p, VM_NODE_TEST, left, &n));
    n->op = take_word(p, "not");
    VM_TRY(want_name(p, &n->text));
    if (take_op(p, '(')) return parse_arguments(p, &n->list);
    vm_chat_token_kind kind = p->at->kind;
    bool begins = kind == VM_TOKEN_STRING || kind == VM_TOKEN_INT || kind == VM_TOKEN_FLOAT || is_op(p, '[') ||
                  is_op(p, '{') ||
                  (kind == VM_TOKEN_NAME && !is_word(p, "else") && !is_word(p, "or") && !is_word(p, "and"));
    if (!begins) return VMOER_OK;
    if (is_word(p, "is")) return fail(p, "no second test");
    /* Jinja would take any name here; these are operators wherever a template has them. */
    if (is_word(p, "if") || is_word(p, "in") || is_word(p, "not")) return VMOER_OK;
    VM_TRY(parse_primary(p, &n->list));
    return parse_postfix(p, &n->list);
}

static vmoer_status parse_filters(parser *p, vm_node **left) {
    for (;;) {
        vm_node *n;
        if (take_op(p, '|')) {
            VM_TRY(wrap(p, VM_NODE_FILTER, left, &n));
            VM_TRY(want_name(p, &n->text));
            if (take_op(p, '(')) VM_TRY(parse_arguments(p, &n->list));
        } else if (take_word(p, "is")) {
            VM_TRY(parse_test(p, left));
        } else if (is_op(p, '(')) {
            VM_TRY(parse_call(p, left));
        } else {
            return VMOER_OK;
        }
    }
}

static vmoer_status parse_unary(parser *p, bool filters, vm_node **out) {
    VM_TRY(enter(p));
    if (is_op(p, '-') || is_op(p, '+')) {
        VM_TRY(node(p, is_op(p, '-') ? VM_NODE_NEGATE : VM_NODE_PLUS, out));
        p->at++;
        VM_TRY(parse_unary(p, false, &(*out)->a));
    } else {
        VM_TRY(parse_primary(p, out));
    }
    VM_TRY(parse_postfix(p, out));
    if (filters) VM_TRY(parse_filters(p, out));
    p->depth--;
    return VMOER_OK;
}

/* The levels of the binary operators, from the loosest. */
static const int binary[4][4] = {{'+', '-'}, {'~'}, {'*', '/', VM_OP('/', '/'), '%'}, {VM_OP('*', '*')}};

static vmoer_status parse_binary(parser *p, int level, vm_node **out) {
    if (level == 4) return parse_unary(p, true, out);
    VM_TRY(parse_binary(p, level + 1, out));
    for (;;) {
        int op = 0;
        for (int i = 0; i < 4; i++) {
            if (binary[level][i] && is_op(p, binary[level][i])) op = binary[level][i];
        }
        if (!op) return VMOER_OK;
        vm_node *n;
        VM_TRY(wrap(p, VM_NODE_BINARY, out, &n));
        p->at++;
        n->op = op;
        VM_TRY(parse_binary(p, level + 1, &n->b));
    }
}

/* 'i' and 'n' stand for `in` and `not in`. */
static int take_comparison(parser *p) {
    static const int ops[] = {VM_OP('=', '='), VM_OP('!', '='), VM_OP('<', '='), VM_OP('>', '='), '<', '>'};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (take_op(p, ops[i])) return ops[i];
    }
    if (take_word(p, "in")) return 'i';
    if (is_word(p, "not") && p->at[1].kind == VM_TOKEN_NAME && vm_piece_is(p->at[1].text, "in")) return p->at += 2, 'n';
    return 0;
}

static vmoer_status parse_comparison(parser *p, vm_node **out) {
    VM_TRY(parse_binary(p, 0, out));
    vm_node *n, *all = NULL, **tail = NULL;
    int op;
    while ((op = take_comparison(p))) {
        if (!all) {
            VM_TRY(wrap(p, VM_NODE_COMPARE, out, &all));
            tail = &all->list;
        }
        VM_TRY(node(p, VM_NODE_OPERAND, &n));
        n->op = op;
        VM_TRY(parse_binary(p, 0, &n->a));
        *tail = n;
        tail = &n->next;
    }
    return VMOER_OK;
}

static vmoer_status parse_not(parser *p, vm_node **out) {
    if (!is_word(p, "not")) return parse_comparison(p, out);
    VM_TRY(enter(p));
    VM_TRY(node(p, VM_NODE_NOT, out));
    p->at++;
    VM_TRY(parse_not(p, &(*out)->a));
    p->depth--;
    return VMOER_OK;
}

static vmoer_status parse_and(parser *p, vm_node **out) {
    VM_TRY(parse_not(p, out));
    while (is_word(p, "and")) {
        vm_node *n;
        VM_TRY(wrap(p, VM_NODE_AND, out, &n));
        p->at++;
        VM_TRY(parse_not(p, &n->b));
    }
    return VMOER_OK;
}

static vmoer_status parse_or(parser *p, vm_node **out) {
    VM_TRY(parse_and(p, out));
    while (is_word(p, "or")) {
        vm_node *n;
        VM_TRY(wrap(p, VM_NODE_OR, out, &n));
        p->at++;
        VM_TRY(parse_and(p, &n->b));
    }
    return VMOER_OK;
}

static vmoer_status parse_expression(parser *p, vm_node **out) {
    VM_TRY(enter(p));
    VM_TRY(parse_or(p, out));
    while (is_word(p, "if")) {
        vm_node *n;
        VM_TRY(node(p, VM_NODE_CONDITIONAL, &n));
        p->at++;
        n->b = *out;
        *out = n;
        VM_TRY(parse_or(p, &n->a));
        if (take_word(p, "else")) VM_TRY(parse_expression(p, &n->c));
    }
    p->depth--;
    return VMOER_OK;
}

/* One expression, or several with commas as a tuple. */
static vmoer_status parse_tuple(parser *p, bool conditional, vm_node **out) {
    VM_TRY(conditional ? parse_expression(p, out) : parse_or(p, out));
    if (!is_op(p, ',')) return VMOER_OK;
    vm_node *all, **tail = &(*out)->next;
    VM_TRY(node(p, VM_NODE_TUPLE, &all));
    all->list = *out;
    *out = all;
    while (take_op(p, ',')) {
        if (is_op(p, ')') || p->at->kind == VM_TOKEN_BLOCK_END || p->at->kind == VM_TOKEN_PRINT_END || is_op(p, '=') ||
            is_word(p, "in"))
            break;
        VM_TRY(conditional ? parse_expression(p, tail) : parse_or(p, tail));
        tail = &(*tail)->next;
    }
    return VMOER_OK;
}

/* ---- statements ---- */

static vmoer_status end_tag(parser *p) {
    if (p->at->kind != VM_TOKEN_BLOCK_END) return fail(p, "%}");
    p->at++;
    return VMOER_OK;
}

/* {% end... %}, its % } included. */
static vmoer_status want_end(parser *p, const char *name) {
    p->at++; /* parse_body stopped before it, at the {% */
    if (!take_word(p, name)) return fail(p, name);
    return end_tag(p);
}

static bool at_tag(const parser *p, const char *name) {
    return p->at->kind == VM_TOKEN_BLOCK && p->at[1].kind == VM_TOKEN_NAME && vm_piece_is(p->at[1].text, name);
}

static vmoer_status parse_if(parser *p, vm_node **out) { /* behind the `if` */
    vm_node *n;
    for (;;) {
        VM_TRY(node(p, VM_NODE_IF, &n));
        *out = n;
        VM_TRY(parse_tuple(p, false, &n->a));
        VM_TRY(end_tag(p));
        VM_TRY(parse_body(p, "elif else endif", &n->list));
        if (!at_tag(p, "elif")) break;
        p->at += 2;
        out = &n->b;
    }
    if (at_tag(p, "else")) {
        p->at += 2;
        VM_TRY(end_tag(p));
        VM_TRY(node(p, VM_NODE_BODY, &n->b));
        VM_TRY(parse_body(p, "endif", &n->b->list));
    }
    return want_end(p, "endif");
}

/* A name, names with commas, or (for set) a namespace's attribute. */
static vmoer_status parse_target(parser *p, bool attribute, vm_node **out) {
    vm_node *n, *all = NULL, **tail = NULL;
    bool bracket = take_op(p, '(');
    do {
        if (all && p->at->kind != VM_TOKEN_NAME) break;
        VM_TRY(node(p, VM_NODE_NAME, &n));
        VM_TRY(want_name(p, &n->text));
        if (attribute && !all && take_op(p, '.')) {
            vm_node *member;
            VM_TRY(node(p, VM_NODE_ATTRIBUTE, &member));
            VM_TRY(want_name(p, &member->text));
            member->a = n;
            *out = member;
            return VMOER_OK;
        }
        if (is_op(p, ',') && !all) {
            VM_TRY(node(p, VM_NODE_TUPLE, &all));
            tail = &all->list;
        }
        if (all) {
            *tail = n;
            tail = &n->next;
        }
    } while (take_op(p, ','));
    *out = all ? all : n;
    return bracket ? want_op(p, ')') : VMOER_OK;
}

static vmoer_status parse_for(parser *p, vm_node *n) {
    n->kind = VM_NODE_FOR;
    VM_TRY(parse_target(p, false, &n->a));
    if (!take_word(p, "in")) return fail(p, "in");
    VM_TRY(parse_tuple(p, false, &n->b));
    if (take_word(p, "if")) VM_TRY(parse_expression(p, &n->c));
    VM_TRY(end_tag(p));
    p->loops++;
    VM_TRY(parse_body(p, "else endfor", &n->list));
    p->loops--;
    if (at_tag(p, "else")) {
        p->at += 2;
        VM_TRY(end_tag(p));
        VM_TRY(node(p, VM_NODE_BODY, &n->d));
        VM_TRY(parse_body(p, "endfor", &n->d->list));
    }
    return want_end(p, "endfor");
}

static vmoer_status parse_set(parser *p, vm_node *n) {
    n->kind = VM_NODE_SET;
    VM_TRY(parse_target(p, true, &n->a));
    if (take_op(p, '=')) {
        VM_TRY(parse_tuple(p, true, &n->b));
        return end_tag(p);
    }
    n->kind = VM_NODE_SET_BODY;
    VM_TRY(end_tag(p));
    VM_TRY(parse_body(p, "endset", &n->list));
    return want_end(p, "endset");
}

static vmoer_status parse_macro(parser *p, vm_node *n) {
    n->kind = VM_NODE_MACRO;
    VM_TRY(want_name(p, &n->text));
    VM_TRY(node(p, VM_NODE_BODY, &n->a));
    VM_TRY(want_op(p, '('));
    int count = 0;
    for (vm_node **tail = &n->a->list; !is_op(p, ')'); tail = &(*tail)->next) {
        if (++count > VM_CHAT_ARGUMENTS)
            return vm_error(VMOER_ERROR_LIMIT, "line %d: more than %d parameters", p->at->line, VM_CHAT_ARGUMENTS);
        VM_TRY(node(p, VM_NODE_KEYWORD, tail));
        VM_TRY(want_name(p, &(*tail)->text));
        if (take_op(p, '=')) VM_TRY(parse_expression(p, &(*tail)->a));
        if (!take_op(p, ',')) break;
    }
    VM_TRY(want_op(p, ')'));
    VM_TRY(end_tag(p));
    int loops = p->loops;
    p->loops = 0;
    VM_TRY(parse_body(p, "endmacro", &n->list));
    p->loops = loops;
    return want_end(p, "endmacro");
}

static vmoer_status parse_statement(parser *p, vm_node **out) { /* behind the {% */
    const vm_chat_token *name = p->at;
    vm_node *n;
    if (name->kind != VM_TOKEN_NAME) return fail(p, "a statement");
    p->at++;
    if (vm_piece_is(name->text, "if")) return parse_if(p, out);
    VM_TRY(node(p, VM_NODE_BODY, &n));
    n->line = name->line;
    *out = n;
    if (vm_piece_is(name->text, "for")) return parse_for(p, n);
    if (vm_piece_is(name->text, "set")) return parse_set(p, n);
    if (vm_piece_is(name->text, "macro")) return parse_macro(p, n);
    if (vm_piece_is(name->text,
                    "generation")) { /* transformers' mark of what the model says: its text is as any other */
        VM_TRY(end_tag(p));
        VM_TRY(parse_body(p, "endgeneration", &n->list));
        return want_end(p, "endgeneration");
    }
    bool leave = vm_piece_is(name->text, "break");
    if (!leave && !vm_piece_is(name->text, "continue"))
        return vm_error(VMOER_ERROR_UNSUPPORTED,
                        "line %d: the statement '%.*s' is not supported, or stands where none of that name can",
                        name->line, VM_PIECE(name->text));
    if (!p->loops)
        return vm_error(VMOER_ERROR_FORMAT, "line %d: %.*s outside of a loop", name->line, VM_PIECE(name->text));
    n->kind = leave ? VM_NODE_BREAK : VM_NODE_CONTINUE;
    return end_tag(p);
}

/* Up to the {% of one of the names in `ends`, or with "" to the end of the template. */
static vmoer_status parse_body(parser *p, const char *ends, vm_node **out) {
    VM_TRY(enter(p));
    for (vm_node **tail = out; p->at->kind != VM_TOKEN_END; tail = &(*tail)->next) {
        if (p->at->kind == VM_TOKEN_DATA) {
            VM_TRY(node(p, VM_NODE_TEXT, tail));
            (*tail)->text = (p->at++)->text;
        } else if (p->at->kind == VM_TOKEN_PRINT) {
            VM_TRY(node(p, VM_NODE_PRINT, tail));
            p->at++;
            VM_TRY(parse_tuple(p, true, &(*tail)->a));
            if (p->at->kind != VM_TOKEN_PRINT_END) return fail(p, "}}");
            p->at++;
        } else {
            for (const char *end = ends; *end; end += strspn(end, " ")) {
                size_t length = strcspn(end, " ");
                if (p->at[1].kind == VM_TOKEN_NAME && vm_piece_equal(p->at[1].text, vm_piece_own(end, length)))
                    return p->depth--, VMOER_OK;
                end += length;
            }
            p->at++;
            VM_TRY(parse_statement(p, tail));
        }
    }
    if (*ends) return fail(p, ends);
    p->depth--;
    return VMOER_OK;
}

vmoer_status vm_chat_template_parse(const char *text, size_t length, vm_chat_template **out) {
    vm_chat_template *t = vm_calloc(1, sizeof *t);
    vm_chat_token *tokens = NULL;
    if (t) t->arena = vm_arena_create();
    vmoer_status status = t && t->arena ? vm_chat_lex(t->arena, text, length, &tokens)
                                        : vm_error(VMOER_ERROR_MEMORY, "no memory for the template");
    if (status == VMOER_OK) {
        parser p = {.arena = t->arena, .at = tokens};
        status = node(&p, VM_NODE_BODY, &t->root);
        if (status == VMOER_OK) status = parse_body(&p, "", &t->root->list);
    }
    vm_free(tokens);
    if (status == VMOER_OK)
        *out = t;
    else
        vm_chat_template_free(t);
    return status;
}

void vm_chat_template_free(vm_chat_template *t) {
    if (!t) return;
    vm_arena_free(t->arena);
    vm_free(t);
}
