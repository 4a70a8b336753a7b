// What was changed at run time: in memory and in its file.
#include "server/control/state.h"

#include <fcntl.h>
#include <simdjson.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/json_writer.h"
#include "core/log.h"
#include "core/socket.h"
#include "core/text.h"

namespace server {

namespace {

constexpr size_t file_bytes_max = 256 << 20;

core::Error failed(const char* call, const std::string& path) {
    int error = errno;
    return core::Error{core::format("%s \"%s\" failed (%d: %s)", call, path.c_str(), error,
                                    core::error_name(error))};
}

bool write_all(int fd, core::Slice text) {
    while (!text.empty()) {
        ssize_t wrote = ::write(fd, text.data(), text.size());
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return false;
        text.remove_prefix(size_t(wrote));
    }
    return true;
}

}  // namespace

const ControlState::Items* ControlState::of(const std::string& resource) const {
    auto at = resources_.find(resource);
    return at == resources_.end() ? nullptr : &at->second;
}

const std::string* ControlState::find(const std::string& resource, const std::string& key) const {
    const Items* items = of(resource);
    if (!items) return nullptr;
    auto at = items->find(key);
    return at == items->end() ? nullptr : &at->second;
}

std::vector<ControlItem> ControlState::items() const {
    std::vector<ControlItem> all;
    for (const auto& [resource, items] : resources_) {
        for (const auto& [key, value] : items) all.push_back({resource, key, value});
    }
    return all;
}

size_t ControlState::count() const {
    size_t count = 0;
    for (const auto& [resource, items] : resources_) count += items.size();
    return count;
}

uint64_t ControlState::version_of(const std::string& object) const {
    auto at = versions_.find(object);
    return at == versions_.end() ? floor_ : std::max(at->second, floor_);
}

std::string ControlState::object_of(const ControlItem& item) {
    return item.resource + "/" + item.key.substr(0, item.key.find('/'));
}

void ControlState::put(const ControlItem& item) {
    if (item.value) {
        resources_[item.resource][item.key] = *item.value;
        return;
    }
    auto at = resources_.find(item.resource);
    if (at == resources_.end()) return;
    at->second.erase(item.key);
    if (at->second.empty()) resources_.erase(at);
}

ControlState::Undo ControlState::apply(const std::vector<ControlItem>& items) {
    Undo undo{version_, {}};
    for (const ControlItem& item : items) {
        const std::string* before = find(item.resource, item.key);
        undo.items.push_back({item.resource, item.key,
                              before ? std::optional<std::string>(*before) : std::nullopt});
        put(item);
    }
    ++version_;
    return undo;
}

void ControlState::undo(const Undo& undo) {
    for (auto at = undo.items.rbegin(); at != undo.items.rend(); ++at) put(*at);
    version_ = undo.version;
}

bool ControlState::holds_values(const std::string& resource, const std::string& first) const {
    const Items* items = of(resource);
    if (!items) return false;
    if (items->contains(first)) return true;
    std::string below = first + "/";
    auto at = items->lower_bound(below);
    return at != items->end() && at->first.starts_with(below);
}

// Versions are kept of objects that hold values; all others share one, or certificates that come
// and go would leave something behind for ever.
void ControlState::confirm(const std::vector<ControlItem>& items) {
    for (const ControlItem& item : items) {
        std::string object = object_of(item);
        if (holds_values(item.resource, object.substr(item.resource.size() + 1))) {
            versions_[object] = version_;
        } else {
            versions_.erase(object);
            floor_ = version_;
        }
    }
}

void ControlState::drop(const ControlItem& item) {
    put({item.resource, item.key, std::nullopt});
}

void ControlState::reloaded() {
    floor_ = ++version_;
    versions_.clear();
}

std::string ControlState::to_json() const {
    core::JsonWriter json;
    json.begin_object().member("version", version_).key("items").begin_array();
    for (const auto& [resource, items] : resources_) {
        for (const auto& [key, value] : items) {
            json.begin_object().member("resource", resource).member("key", key);
            json.key("value").raw(value).end_object();
        }
    }
    json.end_array().end_object();
    return json.take() + "\n";
}

core::Result<ControlState> ControlState::parse(core::Slice text) {
    namespace dom = simdjson::dom;
    dom::parser parser;
    dom::element root;
    ControlState state;
    auto bad = [](const char* what) { return core::Error{std::string("no valid state: ") + what}; };
    if (auto error = parser.parse(text.data(), text.size()).get(root)) {
        return bad(simdjson::error_message(error));
    }
    dom::array items;
    if (root["version"].get(state.version_) || root["items"].get(items)) {
        return bad("\"version\" or \"items\" is missing");
    }
    for (dom::element each : items) {
        std::string_view resource, key;
        dom::element value;
        if (each["resource"].get(resource) || each["key"].get(key) || each["value"].get(value)) {
            return bad("an item lacks \"resource\", \"key\" or \"value\"");
        }
        state.resources_[std::string(resource)][std::string(key)] = simdjson::minify(value);
    }
    state.floor_ = state.version_;
    return state;
}

core::Result<ControlState> load_control_state(const std::string& path) {
    core::Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) {
        if (errno == ENOENT) return ControlState{};
        return failed("open()", path);
    }
    std::string text;
    char room[64 * 1024];
    for (;;) {
        ssize_t got = ::read(file.get(), room, sizeof room);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return failed("read()", path);
        if (got == 0) break;
        text.append(room, size_t(got));
        if (text.size() > file_bytes_max) return core::Error{"\"" + path + "\" is too large"};
    }
    auto state = ControlState::parse(text);
    if (!state) return core::Error{"\"" + path + "\": " + state.error().what};
    return state;
}

core::Result<void> save_control_state(const std::string& path, const ControlState& state) {
    std::string aside = path + ".new";
    std::string text = state.to_json();
    {
        ::unlink(aside.c_str());
        constexpr int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
        core::Fd file(::open(aside.c_str(), flags, 0600));
        if (!file.valid()) return failed("open()", aside);
        bool written = ::fchmod(file.get(), 0600) == 0 && write_all(file.get(), text);
        if (!written || ::fsync(file.get()) != 0) {
            auto error = failed("write()", aside);
            ::unlink(aside.c_str());
            return error;
        }
    }
    if (::rename(aside.c_str(), path.c_str()) != 0) {
        auto error = failed("rename()", aside);
        ::unlink(aside.c_str());
        return error;
    }
    std::string folder = path.substr(0, path.rfind('/') + 1);
    core::Fd entry(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_CLOEXEC));
    if (entry.valid()) ::fsync(entry.get());
    return {};
}

}  // namespace server
