/* names.c: words. */
#include "report/names.h"

#include <string.h>

enum { UNKNOWN = 1000 };

static const char *const SIGNALS[][2] = {
    {"choice_entropy", "entropy over the choices"},
    {"vocabulary_entropy", "entropy over the vocabulary"},
    {"total_entropy", "total entropy of the passes"},
    {"expected_entropy", "expected entropy of the passes"},
    {"mutual_information", "mutual information of the passes"},
    {"gate_entropy", "gate entropy"},
    {"gate_entropy_last", "gate entropy, last word"},
    {"logit_variance", "logit variance"},
    {"logit_variance_last", "logit variance, last word"},
    {"logit_variance_projected", "logit variance, projected"},
    {"logit_variance_projected_last", "logit variance, projected, last word"},
    {"routing_temperature", "routing temperature"},
    {"routing_temperature_last", "routing temperature, last word"},
    {"mahalanobis", "Mahalanobis distance"},
};
enum { N_SIGNALS = sizeof SIGNALS / sizeof *SIGNALS };

int vm_signal_rank(const char *name) {
    for (int i = 0; i < N_SIGNALS; i++) {
        if (strcmp(name, SIGNALS[i][0]) == 0) return i;
    }
    return strcmp(name, "length") == 0 ? UNKNOWN + 1 : UNKNOWN;
}

void vm_put_signal(vm_text *t, const char *name) {
    int rank = vm_signal_rank(name);
    if (rank < N_SIGNALS)
        vm_text_put(t, "%s", SIGNALS[rank][1]);
    else
        vm_text_put(t, "%t", rank > UNKNOWN ? "length of the question" : name);
}

static const struct {
    const char *kind, *name, *words;
    int style;
} ROUTERS[] = {
    {"map", "MAP", "the model as it is", 0},
    {"deterministic", "MAP", "the model as it is", 0},
    {"temperature", "Temperature scaling", "a control: one temperature for the final probabilities", 5},
    {"residual", "Residual", "a control: a learned shift without randomness", 4},
    {"weights", "MAP trained on", "a control: the router's own weights trained on, without randomness",
     VM_STYLE_UNNAMED},
    {"vglr-noise", "Noise only", "a control: learned noise without a shift", VM_STYLE_UNNAMED},
    {"vglr-fc", "VGLR-FC", "a variational router with correlated scores", 1},
    {"vglr-fc-passes", "VGLR-FC, passes", "the same, averaged over whole passes of one draw each", 2},
    {"vglr-mf", "VGLR-MF", "a variational router with independent scores", VM_STYLE_UNNAMED},
    {"vglr-lr", "VGLR-LR", "a variational router with scores correlated by low rank", VM_STYLE_UNNAMED},
    {"vtsr", "VTSR", "a variational temperature, experts drawn", 3},
    {"vtsr-paper", "VTSR, as published", "a learned temperature, experts drawn", VM_STYLE_UNNAMED},
    {"isotropic", "Isotropic noise", "noise of one size on the scores, nothing trained", VM_STYLE_UNNAMED},
    {"fixed-t", "Fixed temperature", "one routing temperature, experts drawn", VM_STYLE_UNNAMED},
    {"roe", "RoE", "experts drawn, several draws a word", VM_STYLE_UNNAMED},
    {"expert-sample", "Expert-Sample", "the surest experts kept, the others drawn", VM_STYLE_UNNAMED},
    {"mc-dropout", "MC dropout", "router weights dropped at random", VM_STYLE_UNNAMED},
    {"swag", "SWAG", "router weights drawn from the course of their training", VM_STYLE_UNNAMED},
    {"ensemble", "Ensemble", "several routers, averaged", 6},
};
enum { N_ROUTERS = sizeof ROUTERS / sizeof *ROUTERS };

int vm_router_rank(const char *kind) {
    for (int i = 0; i < N_ROUTERS; i++) {
        if (strcmp(kind, ROUTERS[i].kind) == 0) return i;
    }
    return UNKNOWN;
}

int vm_router_style(const char *kind) {
    int rank = vm_router_rank(kind);
    return rank == UNKNOWN ? VM_STYLE_UNNAMED : ROUTERS[rank].style;
}

const char *vm_router_name(const char *kind) {
    int rank = vm_router_rank(kind);
    return rank == UNKNOWN ? kind : ROUTERS[rank].name;
}

const char *vm_router_words(const char *kind) {
    int rank = vm_router_rank(kind);
    return rank == UNKNOWN ? NULL : ROUTERS[rank].words;
}

const char *vm_number_name(const char *key) {
    return strcmp(key, "noise") == 0               ? "noise of the scores"
           : strcmp(key, "route_temperature") == 0 ? "routing temperature"
                                                   : "output temperature";
}

static const char *const MAPS[][2] = {{"published", "published MAP"}, {"nll", "NLL-stopped MAP"}};

int vm_map_rank(const char *kind) {
    for (int i = 0; i < 2; i++) {
        if (strcmp(kind, MAPS[i][0]) == 0) return i;
    }
    return UNKNOWN;
}

const char *vm_map_name(const char *kind) {
    int rank = vm_map_rank(kind);
    return rank == UNKNOWN ? kind : MAPS[rank][1];
}
