/* content_words.c: lower-cased words of letters and digits, without stop words and single characters, cut to a rough
 * English stem. Rough is enough: plural and singular, "melts", "melted" and "melting" have to meet. */
#include "io/content_words.h"

#include "base/memory.h"
#include "base/status.h"
#include "io/unicode.h"
#include <stdlib.h>
#include <string.h>

/* Sorted. Function words, and the verbs of exam English ("which would most likely ...") that say nothing of a topic. */
static const char *const stop_words[] = {
    "about",   "above",   "after",     "again", "all",     "also",    "an",     "and",     "any",     "are",
    "aren",    "as",      "at",        "be",    "because", "been",    "being",  "below",   "best",    "between",
    "both",    "but",     "by",        "can",   "cannot",  "could",   "couldn", "did",     "didn",    "do",
    "does",    "doesn",   "doing",     "don",   "done",    "down",    "during", "each",    "either",  "etc",
    "example", "few",     "following", "for",   "from",    "further", "get",    "gets",    "getting", "had",
    "has",     "hasn",    "have",      "haven", "having",  "he",      "her",    "here",    "hers",    "him",
    "his",     "how",     "if",        "in",    "into",    "is",      "isn",    "it",      "its",     "just",
    "like",    "likely",  "made",      "make",  "makes",   "making",  "many",   "may",     "me",      "might",
    "more",    "most",    "much",      "must",  "my",      "no",      "none",   "nor",     "not",     "of",
    "off",     "often",   "on",        "one",   "only",    "or",      "other",  "others",  "our",     "out",
    "over",    "own",     "part",      "same",  "see",     "seen",    "she",    "should",  "shouldn", "so",
    "some",    "someone", "something", "such",  "than",    "that",    "the",    "their",   "them",    "then",
    "there",   "these",   "they",      "thing", "things",  "this",    "those",  "through", "to",      "too",
    "under",   "until",   "up",        "upon",  "use",     "used",    "uses",   "using",   "very",    "was",
    "wasn",    "way",     "we",        "were",  "weren",   "what",    "when",   "where",   "which",   "while",
    "who",     "whom",    "whose",     "why",   "will",    "with",    "within", "without", "won",     "would",
    "wouldn",  "you",     "your",
};

static int compare_word(const void *word, const void *entry) { return strcmp(word, *(const char *const *)entry); }

static bool is_stop_word(const char *word) {
    return bsearch(word, stop_words, sizeof stop_words / sizeof *stop_words, sizeof *stop_words, compare_word) != NULL;
}

static bool ends_with(const char *word, size_t length, const char *suffix) {
    size_t n = strlen(suffix);
    return length > n && memcmp(word + length - n, suffix, n) == 0;
}

/* Length of the word's stem; "y" may replace its last letter. */
static size_t cut_suffixes(char *word, size_t n) {
    if (n > 4 && ends_with(word, n, "ies")) {
        n -= 2;
        word[n - 1] = 'y';
    } else if (n > 4 && ends_with(word, n, "sses")) {
        n -= 2;
    } else if (n > 3 && ends_with(word, n, "s") && !ends_with(word, n, "ss") && !ends_with(word, n, "us")) {
        n -= 1;
    }
    if (n > 5 && ends_with(word, n, "ing"))
        n -= 3;
    else if (n > 4 && ends_with(word, n, "ed"))
        n -= 2;
    if (n > 4 && word[n - 1] == 'e') n -= 1;
    return n;
}

/* Appends the hash of one lower-cased word, if it counts. */
static void take_word(char *word, size_t n, uint64_t *words, size_t *count) {
    word[n] = '\0';
    if (n < 2 || is_stop_word(word)) return;
    n = cut_suffixes(word, n);
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)word[i]) * 0x100000001b3u;
    words[(*count)++] = h;
}

/* word: scratch of at least strlen(text) + 1 bytes. */
static void take_text(const char *text, char *word, uint64_t *words, size_t *count) {
    size_t length = strlen(text), n = 0;
    for (size_t at = 0, from; at < length;) {
        uint32_t code;
        from = at;
        bool valid = vm_utf8_next(text, length, &at, &code);
        if (!valid) at++;
        vm_unicode_class kind = valid ? vm_unicode_classify(code) : VM_UNICODE_OTHER;
        if (vm_unicode_is_letter(kind) || kind == VM_UNICODE_NUMBER) {
            memcpy(word + n, text + from, at - from);
            if (code >= 'A' && code <= 'Z') word[n] = (char)(code + 'a' - 'A');
            n += at - from;
        } else if (n > 0) {
            take_word(word, n, words, count);
            n = 0;
        }
    }
    if (n > 0) take_word(word, n, words, count);
}

static int compare_hashes(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static const char *answer_of(const vm_item *item) { return item->choices[item->answer]; }

vmoer_status vm_word_sets_create(const vm_item *const *items, size_t n, vm_word_set **out) {
    size_t total = 0, longest = 0;
    for (size_t i = 0; i < n; i++) {
        size_t stem = strlen(items[i]->stem), answer = strlen(answer_of(items[i]));
        total += stem / 2 + answer / 2 + 2; /* a word and what ends it take two bytes at least */
        if (stem > longest) longest = stem;
        if (answer > longest) longest = answer;
    }
    size_t header = (n * sizeof(vm_word_set) + 63) / 64 * 64;
    char *block = vm_malloc(header + total * sizeof(uint64_t), 1), *scratch = vm_malloc(longest + 1, 1);
    if (!block || !scratch) {
        vm_free(block);
        vm_free(scratch);
        return vm_error(VMOER_ERROR_MEMORY, "no memory for the words of %zu items", n);
    }
    vm_word_set *sets = (vm_word_set *)block;
    uint64_t *words = (uint64_t *)(block + header);
    for (size_t i = 0; i < n; i++) {
        size_t count = 0, distinct = 0;
        take_text(items[i]->stem, scratch, words, &count);
        take_text(answer_of(items[i]), scratch, words, &count);
        qsort(words, count, sizeof *words, compare_hashes);
        for (size_t k = 0; k < count; k++) {
            if (k == 0 || words[k] != words[k - 1]) words[distinct++] = words[k];
        }
        sets[i] = (vm_word_set){words, distinct};
        words += distinct;
    }
    vm_free(scratch);
    *out = sets;
    return VMOER_OK;
}
