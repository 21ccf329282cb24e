// A decoder layer by one team of threads: nothing but barriers between its steps.
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
    // token_slots [T]: the slot of each token
    LayerRun(const LayersCall& call, const int64_t* token_slots)
        : call_(call), step_(*call.step), token_slots_(token_slots) {}

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
        num_linears_ = 4;
        if (adapts_output()) {
            // in place: x has been read when the first block is written, and a block is its own base
            linears_[4] = linear(layer_->on_output, call_.y, call_.y, nullptr, 7);
            linears_[4].base = call_.y;
            num_linears_ = 5;
        }
        for (int i = 0; i < num_linears_; i++)
            if (!prepare(linears_[i], shared_[i], i)) return false;
        attention_ = attention_call();
        return prepare(attention_, attention_work_);
    }

    // One thread's share, for every thread of a team that has just met. `keys_are_there` waits for keys
    // that others have to store before this team's tokens look at them.
    template <class Wait>
    void run(const Member& member, Stopwatch& watch, const Wait& keys_are_there) {
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
        keys_are_there();
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
        if (num_linears_ == 4) return;
        compute(linears_[4], shared_[4], member, watch);
        done(kStageAdapters);
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

    // Whether a token runs on a slot with adapters on the layer's output.
    bool adapts_output() const {
        if (!layer_->on_output) return false;
        for (int64_t s = 0; s < step_.num_segments; s++) {
            const SlotPointers& slot = layer_->tables[7][step_.segments[s].slot];
            if (slot.rank || slot.gain || slot.bias) return true;
        }
        return false;
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
        for (int64_t t = from; t < to; t++)
            rms_norm(x + t * size, weight_of(norm, t), norm.eps, size, normed_ + t * size);
    }

    // That of token t's slot, or the norm's own; null for none.
    const T* weight_of(const Norm& norm, int64_t t) const {
        const int64_t own = norm.by_slot ? (*norm.by_slot)[token_slots_[t]] : 0;
        return static_cast<const T*>(own ? reinterpret_cast<const void*>(own) : norm.weight);
    }

    // Token t's queries in place; its keys and values into the cache.
    void rotate_and_store(int64_t t) {
        const int64_t size = layer_->head_size, num_kv_heads = layer_->num_kv_heads;
        const T* cos = static_cast<const T*>(step_.cos) + t * size;
        const T* sin = static_cast<const T*>(step_.sin) + t * size;
        T* head = projected_ + t * layer_->qkv->out_features;
        const T* weight = weight_of(layer_->query_norm, t);
        for (int64_t h = 0; h < layer_->num_heads; h++, head += size) {
            norm_head(head, weight, layer_->query_norm.eps);
            rotate(head, cos, sin, size, head);
        }
        const int64_t place = step_.slots[t] * num_kv_heads * size;
        T* key = static_cast<T*>(layer_->k_cache) + place;
        weight = weight_of(layer_->key_norm, t);
        for (int64_t h = 0; h < num_kv_heads; h++, head += size) {
            norm_head(head, weight, layer_->key_norm.eps);
            rotate(head, cos, sin, size, key + h * size);
        }
        memcpy(static_cast<T*>(layer_->v_cache) + place, head, num_kv_heads * size * sizeof(T));
    }

    void norm_head(T* head, const T* weight, float eps) const {
        if (weight) rms_norm(head, weight, eps, layer_->head_size, head);
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
    const int64_t* token_slots_;
    const Layer* layer_ = nullptr;
    const T* x_ = nullptr;
    T *normed_, *projected_, *attended_, *hidden_, *gated_, *opened_;
    int num_linears_;
    LinearCall linears_[5];  // the four groups; adapters on the layer's output
    Shared<M> shared_[5];
    AttentionCall attention_;
    AttentionWork attention_work_;
};

}  // namespace
