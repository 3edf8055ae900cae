/* chat_internal.h: what the files of the chat templates share: tokens -> tree (chat_lex.c, chat_parse.c), values (chat_value.c), the walk over the tree
 * (chat_eval.c), and what a template can call (chat_builtins.c, chat_text.c). Trees and values live in arenas; strings are pieces of text with a length,
 * never changed, so that a piece of one shares its bytes. */
#ifndef VM_IO_CHAT_INTERNAL_H
#define VM_IO_CHAT_INTERNAL_H

#include "base/memory.h"
#include "base/status.h"
#include "base/utf8.h"
#include "io/chat_template.h"
#include "io/unicode.h"
#include <string.h>

typedef struct vm_piece {
    const char *text; /* [length], UTF-8 */
    size_t length;
    const char *given; /* [length]: 1 where a byte came with the conversation, 0 where it is the template's own; NULL: all are its own */
} vm_piece;
static inline vm_piece vm_piece_own(const char *text, size_t length) { return (vm_piece){text, length, NULL}; }
static inline vm_piece vm_piece_part(vm_piece p, size_t from, size_t length) { return (vm_piece){p.text + from, length, p.given ? p.given + from : NULL}; }
static inline bool vm_piece_is(vm_piece p, const char *text) { return p.length == strlen(text) && memcmp(p.text, text, p.length) == 0; }
static inline bool vm_piece_equal(vm_piece a, vm_piece b) { return a.length == b.length && (!a.length || memcmp(a.text, b.text, a.length) == 0); }
#define VM_PIECE(p) (int)vm_utf8_cut((p).text, (p).length < 60 ? (p).length : 60), (p).text /* for %.*s in an error */

/* ---- tokens ---- */

typedef enum vm_chat_token_kind {
    VM_TOKEN_DATA, VM_TOKEN_PRINT, VM_TOKEN_PRINT_END, VM_TOKEN_BLOCK, VM_TOKEN_BLOCK_END, VM_TOKEN_NAME, VM_TOKEN_STRING, VM_TOKEN_INT, VM_TOKEN_FLOAT,
    VM_TOKEN_OPERATOR, VM_TOKEN_END
} vm_chat_token_kind;

/* An operator is its characters: 'c', or VM_OP('c', 'd'). */
#define VM_OP(a, b) ((a) | (b) << 8)

typedef struct vm_chat_token {
    vm_chat_token_kind kind;
    int line, op;
    vm_piece text; /* of a string: without its escapes */
} vm_chat_token;

/* Python's str.isspace: the property White_Space and the four separators of ASCII. */
static inline bool vm_chat_is_space(uint32_t c) { return vm_unicode_classify(c) == VM_UNICODE_SPACE || (c >= 0x1c && c <= 0x1f); }

/* The tokens of the template, the last one VM_TOKEN_END, *tokens freed by the caller with vm_free also after an error. Texts are in the arena. */
vmoer_status vm_chat_lex(vm_arena *arena, const char *text, size_t length, vm_chat_token **tokens);

/* ---- the tree ---- */

typedef enum vm_node_kind {
    VM_NODE_NONE, VM_NODE_BOOL, VM_NODE_INT, VM_NODE_FLOAT, VM_NODE_STRING, VM_NODE_NAME,
    VM_NODE_LIST, VM_NODE_TUPLE,     /* of list */
    VM_NODE_DICT,                    /* of list, keys and values in turn */
    VM_NODE_ATTRIBUTE, VM_NODE_ITEM, /* a.text; a[b] */
    VM_NODE_SLICE,                   /* a[b:c:d], each may be NULL */
    VM_NODE_CALL,                    /* a(list) */
    VM_NODE_KEYWORD,                 /* text=a in a list of arguments or parameters */
    VM_NODE_FILTER, VM_NODE_TEST,    /* a|text(list); a is text(list) */
    VM_NODE_BINARY, VM_NODE_NEGATE, VM_NODE_PLUS, VM_NODE_NOT, VM_NODE_AND, VM_NODE_OR,
    VM_NODE_COMPARE,                 /* a, then list of VM_NODE_OPERAND: op a */
    VM_NODE_OPERAND, VM_NODE_CONDITIONAL, /* b if a else c (may be NULL) */
    VM_NODE_TEXT, VM_NODE_PRINT,
    VM_NODE_IF,                      /* a: list, else b: another IF, a BODY or NULL */
    VM_NODE_FOR,                     /* a in b if c: list, else d; c and d may be NULL */
    VM_NODE_SET, VM_NODE_SET_BODY,   /* a = b; a = what list prints */
    VM_NODE_MACRO,                   /* text(a->list): list */
    VM_NODE_BODY, VM_NODE_BREAK, VM_NODE_CONTINUE
} vm_node_kind;

typedef struct vm_node {
    vm_node_kind kind;
    int line, op;
    vm_piece text;
    union {
        int64_t i;
        double f;
    };
    struct vm_node *a, *b, *c, *d, *list, *next;
} vm_node;

struct vm_chat_template {
    vm_arena *arena;
    vm_node *root; /* VM_NODE_BODY */
};

/* ---- values ---- */

typedef enum vm_value_kind {
    VM_VALUE_MISSING, /* an argument that was not given; never seen by a template */
    VM_VALUE_UNDEFINED, VM_VALUE_NONE, VM_VALUE_BOOL, VM_VALUE_INT, VM_VALUE_FLOAT, VM_VALUE_STRING, VM_VALUE_LIST, VM_VALUE_DICT, VM_VALUE_NAMESPACE,
    VM_VALUE_LOOP, VM_VALUE_MACRO, VM_VALUE_FUNCTION, VM_VALUE_METHOD
} vm_value_kind;

typedef enum vm_list_form { VM_LIST, VM_TUPLE, VM_VIEW /* of a dict: counted, gone through, not indexed */, VM_GENERATOR /* gone through once */ } vm_list_form;

typedef struct vm_value {
    vm_value_kind kind;
    union {
        bool b;
        int64_t i;
        double f;
        vm_piece s;   /* string; of an undefined value, a function or a method: its name */
        struct vm_list *list;
        struct vm_dict *dict; /* also of a namespace */
        struct vm_loop *loop;
        struct vm_macro *macro;
        struct vm_method *method;
    };
} vm_value;

typedef struct vm_list {
    vm_list_form form;
    int depth; /* levels of lists and dicts below, this one included */
    size_t count, at;
    vm_value *items; /* [count]; a generator's first `at` are gone */
} vm_list;

typedef struct vm_dict {
    int depth;
    size_t count, capacity;
    vm_piece *keys;   /* [capacity] */
    vm_value *values; /* [capacity] */
} vm_dict;

typedef struct vm_loop {
    size_t index, count;
    const vm_value *items; /* [count] */
} vm_loop;

typedef struct vm_scope {
    struct vm_scope *parent;
    struct vm_variable {
        vm_piece name;
        vm_value value;
        struct vm_variable *next;
    } *variables;
} vm_scope;

typedef struct vm_macro {
    const vm_node *node;
    vm_scope *scope; /* where it was defined */
} vm_macro;

typedef struct vm_method {
    vm_value self;
    vm_piece name;
} vm_method;

enum { VM_CHAT_ARGUMENTS = 16, VM_CHAT_DEPTH = 100 };
typedef struct vm_arguments {
    int count;
    vm_value values[VM_CHAT_ARGUMENTS];
    vm_piece names[VM_CHAT_ARGUMENTS]; /* text NULL: positional; those come first */
} vm_arguments;

typedef struct vm_text_buffer { /* starts as {0}; vm_buffer_free */
    char *text, *given; /* [length], as in a piece */
    size_t length, text_capacity, given_capacity;
} vm_text_buffer;

typedef struct vm_render {
    vm_arena *arena;
    size_t bytes; /* of values */
    int64_t steps;
    int line, depth;
    enum { VM_FLOW_ON, VM_FLOW_BREAK, VM_FLOW_CONTINUE } flow;
    vm_text_buffer out;
    const struct tm *now;
} vm_render;

/* Errors of these do not name the line: vm_chat_template_render puts r->line in front. */
vmoer_status vm_chat_charge(vm_render *r, size_t bytes); /* the steps that looking at so many bytes costs, at least one */
vmoer_status vm_chat_alloc(vm_render *r, size_t count, size_t size, void **out);

vm_value vm_value_string(vm_piece s);
vm_value vm_value_int(int64_t i);
vm_value vm_value_bool(bool b);
vm_value vm_value_undefined(vm_piece name);
const char *vm_value_kind_name(vm_value v);
bool vm_value_true(vm_value v);
/* items [count] are kept, not copied. */
vmoer_status vm_value_list(vm_render *r, vm_list_form form, vm_value *items, size_t count, vm_value *out);
vmoer_status vm_value_dict(vm_render *r, size_t capacity, vm_value *out);
/* A key that is there gets the new value. */
vmoer_status vm_dict_set(vm_render *r, vm_dict *d, vm_piece key, vm_value value);
/* *out NULL: not there. */
vmoer_status vm_dict_find(vm_render *r, const vm_dict *d, vm_piece key, vm_value **out);
/* Strings and keys are given, but for the names of roles and the tokens that come beside the conversation. */
vmoer_status vm_value_from_json(vm_render *r, const json_t *json, int depth, vm_value *out);
/* The items that going through v gives: of a list, the keys of a dict, the characters of a string. A generator is spent by it. */
vmoer_status vm_value_items(vm_render *r, vm_value v, const vm_value **items, size_t *count);
vmoer_status vm_value_equal(vm_render *r, vm_value a, vm_value b, bool *out);
/* a < b ? -1 : a > b, of two numbers or two strings. */
vmoer_status vm_value_order(vm_render *r, vm_value a, vm_value b, int *out);
vmoer_status vm_value_in(vm_render *r, vm_value item, vm_value container, bool *out);
vmoer_status vm_value_attribute(vm_render *r, vm_value v, vm_piece name, vm_value *out);
vmoer_status vm_value_item(vm_render *r, vm_value v, vm_value key, vm_value *out);
/* bounds [3]: start, stop, step; VM_VALUE_NONE where left out. */
vmoer_status vm_value_slice(vm_render *r, vm_value v, const vm_value *bounds, vm_value *out);

/* ---- text ---- */
vmoer_status vm_buffer_add(vm_render *r, vm_text_buffer *b, vm_piece s);
vm_piece vm_buffer_piece(const vm_text_buffer *b, size_t from); /* what was added since; until the next is added */
void vm_buffer_free(vm_text_buffer *b);
/* What str() gives: *out is a piece of v or of the arena. */
vmoer_status vm_value_text(vm_render *r, vm_value v, vm_piece *out);
vmoer_status vm_value_print(vm_render *r, vm_text_buffer *b, vm_value v);
/* indent: spaces a level, -1: all in one line. */
vmoer_status vm_value_json(vm_render *r, vm_value v, int64_t indent, bool ascii, bool sorted, vm_value *out);
vmoer_status vm_text_concat(vm_render *r, vm_piece a, vm_piece b, vm_value *out);
vmoer_status vm_text_copy(vm_render *r, vm_piece s, vm_value *out);
bool vm_text_is_method(vm_value_kind kind, vm_piece name); /* of Python's str, dict or list */
vmoer_status vm_text_method(vm_render *r, vm_piece self, vm_piece name, const vm_arguments *args, vm_value *out);

/* ---- what a template can call ---- */
/* Arguments to `names` ("old new count"): out[n], VM_VALUE_MISSING where there is none. `required` of them must be there. */
vmoer_status vm_chat_bind(vm_piece what, const vm_arguments *args, const char *names, int required, vm_value *out);
vmoer_status vm_chat_filter(vm_render *r, vm_piece name, vm_value v, const vm_arguments *args, vm_value *out);
vmoer_status vm_chat_test(vm_render *r, vm_piece name, vm_value v, const vm_arguments *args, bool *out);
bool vm_chat_is_function(vm_piece name);
vmoer_status vm_chat_function(vm_render *r, vm_piece name, const vm_arguments *args, vm_value *out);
vmoer_status vm_chat_method(vm_render *r, const vm_method *m, const vm_arguments *args, vm_value *out);

#endif
