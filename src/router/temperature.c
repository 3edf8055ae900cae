/* temperature.c: the baseline that leaves routing alone: config.temperature divides the choice scores, nothing else. */
#include "router/router_internal.h"

const vm_router_kind vm_router_kind_temperature = {
    .name = "temperature", .network = &vm_network_none, .max_experts = VM_ROUTER_MAX_EXPERTS};
