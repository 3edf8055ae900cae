/* chat_lex.c: a chat template's text to tokens. The rules of white space are here: {%- and -%} take all of it, a
 * newline behind %} or #} goes, and so does what indents a {% or {# that begins its line. */
#include "io/chat_internal.h"

enum { MAX_TEMPLATE = 1 << 20 };

typedef struct lexer {
    vm_arena *arena;
    char *text; /* [length], newlines are \n */
    size_t length, at;
    int line;
    vm_chat_token *tokens;
    size_t count, capacity;
} lexer;

static vmoer_status add(lexer *l, vm_chat_token_kind kind, int op, const char *text, size_t length) {
    if (!vm_grow((void **)&l->tokens, &l->capacity, l->count + 1, sizeof *l->tokens))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for the template's tokens");
    l->tokens[l->count++] = (vm_chat_token){kind, l->line, op, vm_piece_own(text, length)};
    return VMOER_OK;
}

static vmoer_status fail(const lexer *l, const char *what) {
    return vm_error(VMOER_ERROR_FORMAT, "line %d: %s", l->line, what);
}

static bool looking_at(const lexer *l, const char *what) {
    size_t n = strlen(what);
    return l->length - l->at >= n && memcmp(l->text + l->at, what, n) == 0;
}

static void step(lexer *l, size_t n) {
    for (size_t i = 0; i < n; i++) l->line += l->text[l->at++] == '\n';
}

static void skip_space(lexer *l) {
    size_t at = l->at;
    uint32_t code;
    while (at < l->length && vm_utf8_next(l->text, l->length, &at, &code) && vm_chat_is_space(code))
        step(l, at - l->at);
}

static size_t without_space_at_end(const char *text, size_t length) {
    while (length) {
        size_t start = length - 1, at;
        uint32_t code;
        while (start && ((uint8_t)text[start] & 0xc0) == 0x80) start--;
        at = start;
        if (!vm_utf8_next(text, length, &at, &code) || !vm_chat_is_space(code)) break;
        length = start;
    }
    return length;
}

static bool is_name(char c, bool first) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (!first && c >= '0' && c <= '9');
}

static int digit_of(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : 99;
}

/* The escape at text[*at], behind its backslash, as Python reads it; what it stands for is no longer than it. */
static vmoer_status unescape(const lexer *l, size_t end, size_t *at, char *out, size_t *n) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = l->text[*at];
    const char *known = c ? strchr(from, c) : NULL;
    uint32_t code = 0;
    if (c == '\n') return ++*at, VMOER_OK;
    if (known) return out[(*n)++] = to[known - from], ++*at, VMOER_OK;
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0, base = 16, read = 0;
    if (c == 'N') return fail(l, "\\N{...} in a string is not supported");
    if (c >= '0' && c <= '7') {
        base = 8;
    } else if (digits) {
        ++*at;
    } else { /* none: the backslash stays */
        out[(*n)++] = '\\';
        return VMOER_OK;
    }
    for (; read < (base == 8 ? 3 : digits) && *at < end && digit_of(l->text[*at]) < base; read++)
        code = code * (uint32_t)base + (uint32_t)digit_of(l->text[(*at)++]);
    if (read < digits || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return fail(l, "an escape in a string that is no character");
    *n += vm_utf8_put(code, out + *n);
    return VMOER_OK;
}

static vmoer_status lex_string(lexer *l) {
    char quote = l->text[l->at];
    size_t start = l->at + 1, end = start, n = 0;
    while (end < l->length && l->text[end] != quote) end += l->text[end] == '\\' ? 2 : 1;
    if (end >= l->length) return fail(l, "a string without its end");
    char *out = vm_arena_alloc(l->arena, end - start + 1, 1);
    if (!out) return vm_error(VMOER_ERROR_MEMORY, "no memory for the template's strings");
    for (size_t at = start; at < end;) {
        if (l->text[at] != '\\') {
            out[n++] = l->text[at++];
            continue;
        }
        at++;
        VM_TRY(unescape(l, end, &at, out, &n));
    }
    VM_TRY(add(l, VM_TOKEN_STRING, 0, out, n));
    step(l, end + 1 - l->at);
    return VMOER_OK;
}

static bool is_digit(const lexer *l, size_t at) { return at < l->length && l->text[at] >= '0' && l->text[at] <= '9'; }

static size_t digits_end(const lexer *l, size_t at) {
    while (is_digit(l, at)) at++;
    return at;
}

static vmoer_status lex_number(lexer *l) {
    size_t end = digits_end(l, l->at);
    bool after_dot = l->at > 0 && l->text[l->at - 1] == '.', real = false; /* a.0.1 has two numbers */
    if (!after_dot && end < l->length && l->text[end] == '.' && is_digit(l, end + 1))
        real = true, end = digits_end(l, end + 1);
    if (!after_dot && end < l->length && (l->text[end] == 'e' || l->text[end] == 'E')) {
        size_t power = end + 1;
        if (power < l->length && (l->text[power] == '+' || l->text[power] == '-')) power++;
        if (is_digit(l, power)) real = true, end = digits_end(l, power);
    }
    if (end < l->length && is_name(l->text[end], true)) return fail(l, "a number that is written in no known way");
    if (!real && l->text[l->at] == '0' && end - l->at > 1) return fail(l, "a number with a leading zero");
    VM_TRY(add(l, real ? VM_TOKEN_FLOAT : VM_TOKEN_INT, 0, l->text + l->at, end - l->at));
    l->at = end;
    return VMOER_OK;
}

static vmoer_status lex_operator(lexer *l) {
    static const char *const two[] = {"**", "//", "==", "!=", ">=", "<="};
    for (size_t i = 0; i < sizeof two / sizeof *two; i++) {
        if (!looking_at(l, two[i])) continue;
        VM_TRY(add(l, VM_TOKEN_OPERATOR, VM_OP(two[i][0], two[i][1]), l->text + l->at, 2));
        l->at += 2;
        return VMOER_OK;
    }
    char c = l->text[l->at];
    if (!c || !strchr("+-*/%~[](){}<>=.:|,", c)) return fail(l, "a character that no expression has");
    VM_TRY(add(l, VM_TOKEN_OPERATOR, c, l->text + l->at, 1));
    l->at++;
    return VMOER_OK;
}

/* From behind {{ or {% to behind its end. */
static vmoer_status lex_tag(lexer *l, bool print) {
    const char *end = print ? "}}" : "%}", *minus = print ? "-}}" : "-%}";
    char open[VM_CHAT_DEPTH];
    int n_open = 0, first_line = l->line;
    VM_TRY(add(l, print ? VM_TOKEN_PRINT : VM_TOKEN_BLOCK, 0, NULL, 0));
    for (;;) {
        skip_space(l);
        if (l->at == l->length) return l->line = first_line, fail(l, print ? "{{ without its }}" : "{% without its %}");
        bool plus = !print && looking_at(l, "+%}");
        if (!n_open && (plus || looking_at(l, end) || looking_at(l, minus))) break;
        char c = l->text[l->at];
        if (c == '\'' || c == '"') {
            VM_TRY(lex_string(l));
        } else if (is_name(c, true)) {
            size_t stop = l->at;
            while (stop < l->length && is_name(l->text[stop], false)) stop++;
            VM_TRY(add(l, VM_TOKEN_NAME, 0, l->text + l->at, stop - l->at));
            l->at = stop;
        } else if (is_digit(l, l->at)) {
            VM_TRY(lex_number(l));
        } else {
            if (c == '(' || c == '[' || c == '{') {
                if (n_open == VM_CHAT_DEPTH)
                    return vm_error(VMOER_ERROR_LIMIT, "line %d: more than %d open brackets", l->line, VM_CHAT_DEPTH);
                open[n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
            } else if ((c == ')' || c == ']' || c == '}') && (!n_open || open[--n_open] != c)) {
                return fail(l, "a bracket that closes none");
            }
            VM_TRY(lex_operator(l));
        }
    }
    VM_TRY(add(l, print ? VM_TOKEN_PRINT_END : VM_TOKEN_BLOCK_END, 0, NULL, 0));
    if (looking_at(l, minus)) {
        l->at += 3;
        skip_space(l);
    } else {
        bool plus = looking_at(l, "+%}");
        l->at += plus ? 3 : 2;
        if (!print && !plus && looking_at(l, "\n")) step(l, 1);
    }
    return VMOER_OK;
}

static vmoer_status lex_comment(lexer *l) {
    const char *end = memmem(l->text + l->at, l->length - l->at, "#}", 2);
    if (!end) return fail(l, "{# without its #}");
    size_t stop = (size_t)(end - l->text);
    char mark = stop > l->at ? end[-1] : '\0';
    step(l, stop + 2 - l->at);
    if (mark == '-')
        skip_space(l);
    else if (mark != '+' && looking_at(l, "\n"))
        step(l, 1);
    return VMOER_OK;
}

/* As Jinja does: \r\n and \r are \n, and one newline at the end is not the template's. */
static void normalize_newlines(lexer *l, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '\r' && i + 1 < length && text[i + 1] == '\n') continue;
        l->text[l->length++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (l->length && l->text[l->length - 1] == '\n') l->length--;
}

static vmoer_status lex_all(lexer *l) {
    bool line_begins = true; /* the last tag ended a line */
    while (l->at < l->length) {
        size_t stop = l->at, start = l->at;
        while (stop + 1 < l->length &&
               !(l->text[stop] == '{' &&
                 (l->text[stop + 1] == '{' || l->text[stop + 1] == '%' || l->text[stop + 1] == '#')))
            stop++;
        bool last = stop + 1 >= l->length;
        if (last) stop = l->length;
        char kind = last ? '\0' : l->text[stop + 1];
        char mark = !last && stop + 2 < l->length ? l->text[stop + 2] : '\0';
        size_t length = stop - start;
        if (mark == '-') {
            length = without_space_at_end(l->text + start, length);
        } else if (!last && mark != '+' && kind != '{') {
            size_t line = length;
            while (line && l->text[start + line - 1] != '\n') line--;
            size_t kept = without_space_at_end(l->text + start, length);
            if ((line > 0 || line_begins) && kept <= line) length = line;
        }
        if (length) VM_TRY(add(l, VM_TOKEN_DATA, 0, l->text + start, length));
        step(l, stop - l->at);
        if (last) break;
        l->at += mark == '-' || mark == '+' ? 3 : 2;
        VM_TRY(kind == '#' ? lex_comment(l) : lex_tag(l, kind == '{'));
        line_begins = l->text[l->at - 1] == '\n';
    }
    return add(l, VM_TOKEN_END, 0, NULL, 0);
}

vmoer_status vm_chat_lex(vm_arena *arena, const char *text, size_t length, vm_chat_token **tokens) {
    lexer l = {.arena = arena, .line = 1};
    size_t bad;
    *tokens = NULL;
    if (length > MAX_TEMPLATE)
        return vm_error(VMOER_ERROR_LIMIT, "a template of %zu bytes, at most %d", length, MAX_TEMPLATE);
    if (!vm_utf8_valid(text, length, &bad)) return vm_error(VMOER_ERROR_FORMAT, "byte %zu is not UTF-8", bad);
    l.text = vm_arena_alloc(arena, length + 1, 1);
    if (!l.text) return vm_error(VMOER_ERROR_MEMORY, "no memory for the template");
    normalize_newlines(&l, text, length);
    vmoer_status status = lex_all(&l);
    *tokens = l.tokens;
    return status;
}
