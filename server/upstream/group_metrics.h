// GroupMetrics: what one worker counts of an upstream group and its servers, for the status
// endpoint. Owned by the group; fed by its sessions and health checks. Without a resty_status
// location there is none.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>

#include "core/histogram.h"
#include "core/slice.h"
#include "core/ticks.h"

namespace server {

class UpstreamGroup;
struct UpstreamState;

// How long one try took, finer than what logs show.
struct TryClock {
    uint64_t began = 0;              // ticks; 0: not measured
    uint64_t connect_ns = 0, header_ns = 0;      // 0: it never came to that, or on a kept one

    void connected() {
        if (began) connect_ns = core::Ticks::ns_since(began);
    }
    void head_came() {
        if (began) header_ns = core::Ticks::ns_since(began);
    }
};

class GroupMetrics {
  public:
    explicit GroupMetrics(UpstreamGroup& group);
    ~GroupMetrics();

    void tried(const UpstreamState& state, const TryClock& clock, bool failed, bool kept);
    void checked(core::Slice peer, bool passed, bool now_unhealthy);
    void publish();                  // gauges

  private:
    struct Hash {
        using is_transparent = void;
        size_t operator()(core::Slice text) const { return std::hash<core::Slice>{}(text); }
    };
    core::Counter* row_of(core::Slice peer);
    void forget_gone();

    UpstreamGroup& group_;
    const std::string name_;
    core::Counter* own_;             // the group's
    std::unordered_map<std::string, core::Counter*, Hash, std::equal_to<>> peers_;
};

}  // namespace server
