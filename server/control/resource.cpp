// The list of what can be changed, and the keys of its values.
#include "server/control/resource.h"

#include <algorithm>
#include <cstring>

#include "core/text.h"
#include "server/control/state.h"

namespace server {

namespace {

std::vector<ControlResource*>& registered() {
    static std::vector<ControlResource*> all;
    return all;
}

}  // namespace

ControlError not_found(std::string what) { return {404, "not_found", std::move(what)}; }
ControlError conflict(std::string what) { return {409, "conflict", std::move(what)}; }
ControlError invalid(std::string what) { return {422, "invalid", std::move(what)}; }
ControlError wrong_method() {
    return {405, "method_not_allowed", "this method is not known here"};
}

ControlResource::ControlResource(const char* name) : name_(name) {
    auto& all = registered();
    auto at = std::find_if(all.begin(), all.end(), [&](const ControlResource* other) {
        return std::strcmp(name, other->name()) < 0;
    });
    all.insert(at, this);
}

std::string ControlResource::object_of(const std::vector<std::string>& path) const {
    return encode_segment(path[0]);
}

const std::vector<ControlResource*>& control_resources() { return registered(); }

ControlResource* find_control_resource(core::Slice name) {
    for (ControlResource* resource : registered()) {
        if (resource->name() == name) return resource;
    }
    return nullptr;
}

core::Result<std::vector<StagedPtr>> stage_items(const std::vector<ControlItem>& items,
                                                 const ControlPlace& place) {
    std::vector<StagedPtr> staged;
    for (const ControlItem& item : items) {
        ControlResource* resource = find_control_resource(item.resource);
        if (!resource) return core::Error{"there is no \"" + item.resource + "\""};
        auto one = resource->stage(item, place);
        if (!one) {
            return core::Error{item.resource + "/" + item.key + ": " + one.error().what};
        }
        if (*one) staged.push_back(std::move(*one));
    }
    return staged;
}

const std::optional<std::string>* ControlDraft::planned(const std::string& key) const {
    auto at = pending_.find({resource_, key});
    return at == pending_.end() ? nullptr : &at->second;
}

const std::string* ControlDraft::find(const std::string& key) const {
    if (auto* pending = planned(key)) return *pending ? &**pending : nullptr;
    return state_.find(resource_, key);
}

void ControlDraft::each(
    core::Slice prefix,
    const std::function<void(const std::string& key, const std::string& value)>& f) const {
    if (const ControlState::Items* items = state_.of(resource_)) {
        for (auto at = items->lower_bound(std::string(prefix)); at != items->end(); ++at) {
            if (!at->first.starts_with(prefix)) break;
            if (!planned(at->first)) f(at->first, at->second);
        }
    }
    for (const auto& [key, value] : pending_) {
        if (key.first == resource_ && value && key.second.starts_with(prefix)) {
            f(key.second, *value);
        }
    }
}

void ControlDraft::set(const std::string& key, std::optional<std::string> value) {
    pending_[{resource_, key}] = std::move(value);
}

std::string encode_segment(core::Slice text) {
    std::string to;
    for (char c : text) {
        bool plain = core::is_alpha(c) || core::is_digit(c) || std::strchr("-._~:$*@,!", c);
        if (plain && c) to += c;
        else to += core::format("%%%02X", unsigned(uint8_t(c)));
    }
    return to;
}

std::optional<std::string> decode_segment(core::Slice text) {
    std::string to;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            to += text[i];
            continue;
        }
        if (i + 2 >= text.size()) return {};
        int high = core::hex_value(text[i + 1]), low = core::hex_value(text[i + 2]);
        if (high < 0 || low < 0) return {};
        to += char(high << 4 | low);
        i += 2;
    }
    return to;
}

std::optional<std::vector<std::string>> split_path(core::Slice path) {
    std::vector<std::string> segments;
    while (!path.empty()) {
        size_t slash = path.find('/');
        auto segment = decode_segment(path.substr(0, slash));
        if (!segment || segment->empty()) return {};
        segments.push_back(std::move(*segment));
        path = slash == core::Slice::npos ? core::Slice{} : path.substr(slash + 1);
    }
    return segments;
}

}  // namespace server
