// A table of host names with wildcards: "example.com", ".example.com", "*.example.com", "www.*".
// Exact names win, then the longest "*." wildcard, then the longest ".*" one. Keys are lower case.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "core/slice.h"

namespace server {

template <class T>
class HostMap {
  public:
    enum class Added : unsigned char { yes, known, invalid };

    // Without `wildcards` the name is taken as it is.
    Added add(core::Slice name, T value, bool wildcards) {
        if (!wildcards) return insert(exact_, name, value);
        size_t star = name.find('*');
        if (star != name.npos && name.find('*', star + 1) != name.npos) return Added::invalid;
        if (name.starts_with("*.") && name.size() > 2) {
            return insert(suffix_, name.substr(2), value);
        }
        if (name.starts_with('.') && name.size() > 1) {
            Added added = insert(suffix_, name.substr(1), value);
            if (added == Added::yes) stand_for_itself(name.substr(1), value);
            return added;
        }
        if (name.ends_with(".*") && name.size() > 2) {
            return insert(prefix_, name.substr(0, name.size() - 2), value);
        }
        if (name.find('*') != core::Slice::npos) return Added::invalid;
        return insert(exact_, name, value);
    }

    // Whether add() takes the name, if it is not known yet.
    static bool is_valid(core::Slice name, bool wildcards) {
        return HostMap().add(name, T{}, wildcards) == Added::yes;
    }

    // The name that has the same place: ".a.test" of "*.a.test". Empty: none.
    static std::string twin(core::Slice name) {
        if (name.starts_with("*.")) return std::string(name.substr(1));
        return name.starts_with('.') ? "*" + std::string(name) : std::string();
    }

    // What was added by this very name.
    const T* find_added(core::Slice name, bool wildcards) const {
        Place place = place_of(name, wildcards);
        const Map& map = this->*place.map;
        auto at = map.find(place.key);
        if (at == map.end() || is_copy(place, at->second)) return nullptr;
        bool suffix = place.map == &HostMap::suffix_;
        if (suffix && dotted_.contains(place.key) != place.dotted) return nullptr;
        return &at->second;
    }

    // Changes the value of a valid name, or adds it. Values must differ from name to name. Both
    // give the value that goes; set() takes the place of a twin.
    std::optional<T> set(core::Slice name, T value, bool wildcards) {
        Place place = place_of(name, wildcards);
        std::optional<T> before = take(place);
        (this->*place.map).insert_or_assign(std::string(place.key), value);
        if (place.dotted) stand_for_itself(place.key, value);
        return before;
    }
    std::optional<T> erase(core::Slice name, bool wildcards) {
        if (!find_added(name, wildcards)) return {};
        Place place = place_of(name, wildcards);
        std::optional<T> before = take(place);
        if (place.map == &HostMap::exact_ && dotted_.contains(place.key)) {
            exact_.emplace(std::string(place.key), suffix_.find(place.key)->second);
        }
        return before;
    }

    // Null when no name matches.
    const T* find(core::Slice host) const {
        if (auto at = exact_.find(host); at != exact_.end()) return &at->second;
        if (!suffix_.empty()) {
            for (size_t dot = host.find('.'); dot != host.npos; dot = host.find('.', dot + 1)) {
                auto at = suffix_.find(host.substr(dot + 1));
                if (at != suffix_.end()) return &at->second;
            }
        }
        if (prefix_.empty()) return nullptr;
        size_t dot = host.rfind('.');
        while (dot != host.npos && dot > 0) {
            auto at = prefix_.find(host.substr(0, dot));
            if (at != prefix_.end()) return &at->second;
            dot = host.rfind('.', dot - 1);
        }
        return nullptr;
    }

    bool empty() const { return exact_.empty() && suffix_.empty() && prefix_.empty(); }

  private:
    struct Hash {
        using is_transparent = void;
        size_t operator()(core::Slice text) const { return std::hash<core::Slice>{}(text); }
    };
    using Map = std::unordered_map<std::string, T, Hash, std::equal_to<>>;
    using Names = std::unordered_set<std::string, Hash, std::equal_to<>>;

    // Where a valid name is kept.
    struct Place {
        Map HostMap::*map;
        core::Slice key;
        bool dotted = false;
    };
    static Place place_of(core::Slice name, bool wildcards) {
        if (wildcards && name.starts_with("*.")) return {&HostMap::suffix_, name.substr(2)};
        if (wildcards && name.starts_with('.') && name.size() > 1) {
            return {&HostMap::suffix_, name.substr(1), true};
        }
        if (wildcards && name.ends_with(".*")) {
            return {&HostMap::prefix_, name.substr(0, name.size() - 2)};
        }
        return {&HostMap::exact_, name};
    }

    Added insert(Map& map, core::Slice key, const T& value) {
        return map.emplace(std::string(key), value).second ? Added::yes : Added::known;
    }

    // ".example.com" stands for the name itself as well, unless that was added by itself.
    void stand_for_itself(core::Slice key, const T& value) {
        dotted_.emplace(key);
        exact_.emplace(std::string(key), value);
    }
    bool is_copy(const Place& place, const T& value) const {
        return place.map == &HostMap::exact_ && dotted_.contains(place.key) &&
               suffix_.find(place.key)->second == value;
    }

    // Frees a place, whoever of twins has it.
    std::optional<T> take(const Place& place) {
        Map& map = this->*place.map;
        auto at = map.find(place.key);
        if (at == map.end() || is_copy(place, at->second)) return {};
        std::optional<T> value(std::move(at->second));
        map.erase(at);
        auto dotted = place.map == &HostMap::suffix_ ? dotted_.find(place.key) : dotted_.end();
        if (dotted == dotted_.end()) return value;
        dotted_.erase(dotted);
        auto plain = exact_.find(place.key);
        if (plain != exact_.end() && plain->second == *value) exact_.erase(plain);
        return value;
    }

    Map exact_;
    Map suffix_;        // "example.com" for *.example.com and .example.com
    Names dotted_;      // those of suffix_ that are there for .example.com
    Map prefix_;        // "www.example" for www.example.*
};

}  // namespace server
