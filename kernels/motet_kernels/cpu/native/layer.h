// Decoder layers by one team of threads: nothing but barriers between their steps.
//
// Every step is the row's own work or one of the products and sums whose order is the row's own, so
// a row's bits do not depend on its company here either. Each step's result is rounded to T, as it
// is where the steps are ops of their own.
#pragma once

#include "attention.h"
#include "gate.h"
#include "linear.h"
#include "norm.h"
#include "rotary.h"

namespace {

enum LayerBuffer { kNormed, kProjected, kAttended, kHidden, kGated, kOpened };

template <class M>
class LayerRun {
    using T = typename M::Stored;

   public:
    explicit LayerRun(const LayersCall& call) : call_(call), step_(*call.step) {}

    // Make layer i the one to run; by one thread. False if there is no memory.
    bool prepare_layer(int64_t i) {
        layer_ = call_.layers[i];
        x_ = static_cast<const T*>(i ? call_.y : call_.x);
        const int64_t hidden = layer_->qkv->in_features;
        normed_ = buffer(kNormed, hidden);
        projected_ = buffer(kProjected, layer_->qkv->out_features);
        attended_ = buffer(kAttended, layer_->output->in_features);
        hidden_ = buffer(kHidden, hidden);
        gated_ = buffer(kGated, layer_->gate_up->out_features);
        opened_ = buffer(kOpened, layer_->down->in_features);
        if (!normed_ || !projected_ || !attended_ || !hidden_ || !gated_ || !opened_) return false;
        linears_[0] = linear(layer_->qkv, normed_, projected_, nullptr, 0);
        linears_[1] = linear(layer_->output, attended_, hidden_, x_, 3);
        linears_[2] = linear(layer_->gate_up, normed_, gated_, nullptr, 4);
        linears_[3] = linear(layer_->down, opened_, call_.y, hidden_, 6);
        for (int i = 0; i < 4; i++)
            if (!prepare(linears_[i], shared_[i], i)) return false;
        attention_ = attention_call();
        return prepare(attention_, attention_work_);
    }

    // One thread's share, for every thread of a team that has just met.
    void run(const Member& member, Stopwatch& watch) {
        const auto done = [&](Stage stage) {
            member.meet();
            watch.lap(stage);
        };
        const int64_t from = member.from(step_.num_tokens), to = member.to(step_.num_tokens);
        norm_rows(x_, layer_->input_norm, from, to);
        done(kStageNorms);
        compute(linears_[0], shared_[0], member, watch);
        done(kStageLinears);
        for (int64_t t = from; t < to; t++) rotate_and_store(t);
        done(kStageRotary);
        compute<M>(attention_, attention_work_, member);
        done(kStageAttention);
        compute(linears_[1], shared_[1], member, watch);
        done(kStageLinears);
        norm_rows(hidden_, layer_->post_norm, from, to);
        done(kStageNorms);
        compute(linears_[2], shared_[2], member, watch);
        done(kStageLinears);
        open_gates(from, to);
        done(kStageGate);
        compute(linears_[3], shared_[3], member, watch);
        done(kStageLinears);
    }

   private:
    T* buffer(LayerBuffer which, int64_t width) {
        return scratch_array<T>(kScratchActivations, step_.num_tokens * width, which);
    }

    LinearCall linear(
        const Group* group, const void* x, void* y, const void* residual, int first_table) const {
        return {
            group, x, nullptr, y, residual, step_.segments, layer_->tables + first_table,
            step_.num_segments, step_.num_tokens, step_.is_bf16, step_.num_threads};
    }

    AttentionCall attention_call() const {
        const int64_t size = layer_->head_size;
        return {
            projected_, layer_->k_cache, layer_->v_cache, attended_, step_.rows, step_.blocks,
            step_.num_rows, step_.num_tokens, step_.longest, layer_->qkv->out_features, size,
            step_.block_size, layer_->num_heads, layer_->num_kv_heads, size, size, layer_->window,
            layer_->scale, layer_->softcap, step_.is_bf16, step_.num_threads};
    }

    void norm_rows(const T* x, const Norm& norm, int64_t from, int64_t to) {
        const int64_t size = layer_->qkv->in_features;
        const T* weight = static_cast<const T*>(norm.weight);
        for (int64_t t = from; t < to; t++)
            rms_norm(x + t * size, weight, norm.eps, size, normed_ + t * size);
    }

    // Token t's queries in place; its keys and values into the cache.
    void rotate_and_store(int64_t t) {
        const int64_t size = layer_->head_size, num_kv_heads = layer_->num_kv_heads;
        const T* cos = static_cast<const T*>(step_.cos) + t * size;
        const T* sin = static_cast<const T*>(step_.sin) + t * size;
        T* head = projected_ + t * layer_->qkv->out_features;
        for (int64_t h = 0; h < layer_->num_heads; h++, head += size) {
            norm_head(head, layer_->query_norm);
            rotate(head, cos, sin, size, head);
        }
        const int64_t place = step_.slots[t] * num_kv_heads * size;
        T* key = static_cast<T*>(layer_->k_cache) + place;
        for (int64_t h = 0; h < num_kv_heads; h++, head += size) {
            norm_head(head, layer_->key_norm);
            rotate(head, cos, sin, size, key + h * size);
        }
        memcpy(static_cast<T*>(layer_->v_cache) + place, head, num_kv_heads * size * sizeof(T));
    }

    void norm_head(T* head, const Norm& norm) const {
        if (norm.weight)
            rms_norm(head, static_cast<const T*>(norm.weight), norm.eps, layer_->head_size, head);
    }

    void open_gates(int64_t from, int64_t to) {
        const int64_t size = layer_->down->in_features;
        for (int64_t t = from; t < to; t++) {
            const T* gate = gated_ + t * 2 * size;
            silu_gate(gate, gate + size, size, opened_ + t * size);
        }
    }

    const LayersCall& call_;
    const LayerStep& step_;
    const Layer* layer_ = nullptr;
    const T* x_ = nullptr;
    T *normed_, *projected_, *attended_, *hidden_, *gated_, *opened_;
    LinearCall linears_[4];
    Shared<M> shared_[4];
    AttentionCall attention_;
    AttentionWork attention_work_;
};

// The layers of a call, one after the other, in one region: y of each is x of the next.
// 0; 1 if there is no memory; 2 if a slot lies outside the cache. Then nothing useful is in y.
template <class M>
int decoder_layers(const LayersCall& call) {
    const LayerStep& step = *call.step;
    for (int64_t t = 0; t < step.num_tokens; t++)
        if (step.slots[t] < 0 || step.slots[t] >= step.num_places) return 2;
    bool prepared = true;
    LayerRun<M> run(call);
    with_team(step.num_threads, [&](const Member& member) {
        const typename M::Session session;
        Stopwatch watch(member.thread ? nullptr : call.seconds);
        for (int64_t i = 0; i < call.num_layers; i++) {
            if (member.thread == 0) prepared = run.prepare_layer(i);
            member.meet();
            if (!prepared) return;
            watch.lap(kStageLinears);  // most of the preparation is listing the adapters' rows
            run.run(member, watch);
        }
    });
    return prepared ? 0 : 1;
}

}  // namespace
