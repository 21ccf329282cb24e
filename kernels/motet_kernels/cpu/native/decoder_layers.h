// Decoder layers, one after the other, for all tokens of a step.
//
// A step of few tokens is computed by all threads together, who share out the columns of each product
// and meet after every step of a layer. Of many tokens every thread takes some of its own through all
// layers: then what it reads it has written itself, and it meets the others once a layer, for the keys.
// Each thread reads and decodes all weights for that, which pays from kTokensApart tokens a thread on.
#pragma once

#include "layer.h"
#include "step_part.h"

namespace {

// The slot of each token, 0 for base rows. Null if there is no memory.
inline const int64_t* slots_of_tokens(const LayerStep& step) {
    auto* slots = scratch_array<int64_t>(kScratchTokenSlots, step.num_tokens);
    if (!slots) return nullptr;
    memset(slots, 0, step.num_tokens * sizeof *slots);
    for (int64_t s = 0; s < step.num_segments; s++)
        for (int64_t t = step.segments[s].start; t < step.segments[s].stop; t++)
            slots[t] = step.segments[s].slot;
    return slots;
}

// All layers by one team.
template <class M>
bool layers_together(const LayersCall& call, const int64_t* token_slots) {
    bool prepared = true;
    LayerRun<M> run(call, token_slots);
    with_team(call.step->num_threads, [&](const Member& member) {
        const typename M::Session session;
        Stopwatch watch(member.thread ? nullptr : call.seconds);
        for (int64_t i = 0; i < call.num_layers; i++) {
            if (member.thread == 0) prepared = run.prepare_layer(i);
            member.meet();
            if (!prepared) return;
            watch.lap(kStageLinears);  // most of the preparation is listing the adapters' rows
            run.run(member, watch, [] {});
        }
    });
    return prepared;
}

// All layers for the tokens of one part, by the thread that calls it. Every thread has to, whatever
// becomes of its part, since it waits for the others' keys once a layer.
template <class M>
bool layers_of_part(const LayersCall& call, const int64_t* token_slots, const Member& member) {
    StepPart<M> part;
    bool prepared = part.take(call, token_slots, member);
    Team team;
    LayerRun<M> run(part.call, part.token_slots);
    Stopwatch watch(part.call.seconds);
    for (int64_t i = 0; i < call.num_layers; i++) {
        prepared = prepared && run.prepare_layer(i);
        watch.lap(kStageLinears);
        if (prepared && part.step.num_tokens)
            run.run(Member{team, 0, 1}, watch, [&] { member.meet(); });
        else
            member.meet();
    }
    return prepared;
}

template <class M>
bool layers_apart(const LayersCall& call, const int64_t* token_slots) {
    std::atomic<bool> prepared{true};
    with_team(call.step->num_threads, [&](const Member& member) {
        const typename M::Session session;
        if (!layers_of_part<M>(call, token_slots, member)) prepared = false;
    });
    return prepared;
}

// 0; 1 if there is no memory; 2 if a slot lies outside the cache. Then nothing useful is in y.
template <class M>
int decoder_layers(const LayersCall& call) {
    const LayerStep& step = *call.step;
    for (int64_t t = 0; t < step.num_tokens; t++)
        if (step.slots[t] < 0 || step.slots[t] >= step.num_places) return 2;
    const int64_t* token_slots = slots_of_tokens(step);
    if (!token_slots) return 1;
    const bool apart = step.num_threads > 1 && step.num_tokens >= M::kTokensApart * step.num_threads;
    const bool done = apart ? layers_apart<M>(call, token_slots) : layers_together<M>(call, token_slots);
    return done ? 0 : 1;
}

}  // namespace
