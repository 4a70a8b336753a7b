// What can be changed while the server runs. A module that has something to offer derives from
// ControlResource and makes one static object of it; the control socket (control.h) then lists it
// at /v1/NAME and brings its changes to every process. Nothing here knows sockets or HTTP.
//
// A change goes through three steps. plan(), in the master (or the only process): what the caller
// asks for becomes items, each a key and the JSON of its new value. stage(), in the master and in
// each worker: the value is checked and everything built that it needs. commit(), everywhere, once
// all have staged; it cannot fail. A staged change that is destroyed instead has changed nothing.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/result.h"
#include "core/slice.h"

namespace core {
class JsonWriter;
}

namespace server {

// One value that was changed. `key`: the path behind the resource's name, each segment
// percent-encoded. No value: as the configuration has it.
struct ControlItem {
    std::string resource, key;
    std::optional<std::string> value;
};

// Why a request is refused: an HTTP status, a word for programs, a text for people.
struct ControlError {
    int status = 422;
    std::string code = "invalid";
    std::string what;
};
using ControlOutcome = std::optional<ControlError>;      // nothing: it went well
ControlError not_found(std::string what);
ControlError conflict(std::string what);
ControlError invalid(std::string what);
ControlError wrong_method();

class StagedChange {
  public:
    virtual ~StagedChange() = default;
    virtual void commit() = 0;
};
using StagedPtr = std::unique_ptr<StagedChange>;

// Which process it is that stages: what all share is changed by the first alone.
struct ControlPlace {
    enum Kind : uint8_t { single, master, worker } kind = single;
    int number = -1;                       // of a worker
    bool first() const { return kind != worker; }
};

class Configuration;
class ControlState;                        // server/control/state.h

// The values of one resource as a transaction sees them: those in force, and what it has planned so
// far.
class ControlDraft {
  public:
    using Pending = std::map<std::pair<std::string, std::string>, std::optional<std::string>>;

    ControlDraft(const ControlState& state, std::string resource, Pending& pending)
        : state_(state), resource_(std::move(resource)), pending_(pending) {}

    // What this transaction has planned for the key; null: nothing.
    const std::optional<std::string>* planned(const std::string& key) const;
    // The value changed at run time; null: as configured.
    const std::string* find(const std::string& key) const;
    // Every such value whose key begins with `prefix`.
    void each(core::Slice prefix,
              const std::function<void(const std::string& key, const std::string& value)>& f) const;
    void set(const std::string& key, std::optional<std::string> value);

  private:
    const ControlState& state_;
    const std::string resource_;
    Pending& pending_;
};

struct ControlCall {
    core::Slice method;                    // PUT, POST, PATCH, DELETE
    std::vector<std::string> path;         // segments behind the resource's name, decoded
    std::string body;                      // JSON, or empty
};

class ControlResource {
  public:
    explicit ControlResource(const char* name);

    const char* name() const { return name_; }
    // GET. `state` knows what was changed at run time.
    virtual ControlOutcome show(const std::vector<std::string>& path, const ControlState& state,
                                core::JsonWriter& to) const = 0;
    virtual ControlOutcome plan(const ControlCall& call, ControlDraft& draft) const = 0;
    // Null with success: there is nothing to do in this process.
    virtual core::Result<StagedPtr> stage(const ControlItem& item, const ControlPlace& place) = 0;
    // A configuration has come into force; what was changed at run time is staged next.
    virtual void configured(Configuration&) {}
    // In a new worker, which has the master's memory: what differs by process.
    virtual void begin(const ControlPlace&, const ControlState&) {}
    // In a worker (or the only process) whose modules are up, before it serves: what only it holds.
    virtual void started(const ControlPlace&, const ControlState&) {}
    // What of a path, which is not empty, has a version of its own: the first segment of a key.
    virtual std::string object_of(const std::vector<std::string>& path) const;

  protected:
    ~ControlResource() = default;

  private:
    const char* name_;
};

const std::vector<ControlResource*>& control_resources();    // by name
ControlResource* find_control_resource(core::Slice name);

// All of them, or the first that was refused.
core::Result<std::vector<StagedPtr>> stage_items(const std::vector<ControlItem>& items,
                                                 const ControlPlace& place);

// Whether there is a control socket, when the configuration has been read.
bool has_control(Configuration& configuration);

// Segments of paths.
std::string encode_segment(core::Slice text);
std::optional<std::string> decode_segment(core::Slice text);
std::optional<std::vector<std::string>> split_path(core::Slice path);    // "a/b%2Fc"

}  // namespace server
