// ControlState: everything that was changed at run time, by resource and key, with the versions
// that callers name when they must not overwrite what they have not seen. Kept by the master (or
// the only process); control_state writes it to a file. Workers have it by the fork.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/result.h"
#include "core/slice.h"
#include "server/control/resource.h"

namespace server {

class ControlState {
  public:
    using Items = std::map<std::string, std::string>;          // key to JSON

    const Items* of(const std::string& resource) const;        // null: none
    const std::string* find(const std::string& resource, const std::string& key) const;
    std::vector<ControlItem> items() const;
    size_t count() const;

    // Every change counts it up, and so does a reload.
    uint64_t version() const { return version_; }
    // When `object` ("upstreams/backend") last changed.
    uint64_t version_of(const std::string& object) const;
    static std::string object_of(const ControlItem& item);

    struct Undo {
        uint64_t version;
        std::vector<ControlItem> items;
    };
    // Takes the items over; what came back undoes it until the next change. Versions are marked by
    // confirm() when the change is certain.
    Undo apply(const std::vector<ControlItem>& items);
    void undo(const Undo& undo);
    void confirm(const std::vector<ControlItem>& items);
    void drop(const ControlItem& item);                        // one that fits no more
    void reloaded();                                           // all may be different

    // {"version":3,"items":[{"resource":…,"key":…,"value":…}]}
    std::string to_json() const;
    static core::Result<ControlState> parse(core::Slice json);

  private:
    bool holds_values(const std::string& resource, const std::string& first) const;
    void put(const ControlItem& item);

    std::map<std::string, Items> resources_;
    std::map<std::string, uint64_t> versions_;     // of objects that hold values
    uint64_t version_ = 1;
    uint64_t floor_ = 1;                           // of objects that hold none
};

// A file that is not there is an empty state.
core::Result<ControlState> load_control_state(const std::string& path);
// All or nothing, also when the machine loses power: written aside, synced, renamed. Mode 0600.
core::Result<void> save_control_state(const std::string& path, const ControlState& state);

}  // namespace server
