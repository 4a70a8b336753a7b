// MapTable: what one map{} block comes to: words, patterns and a default, each with a value that
// may hold variables. Made while the configuration is loaded (modules/map.cpp); entries may be set
// and removed while the server runs (map_control.cpp), between two turns of the loop.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "conf/tree.h"
#include "core/regex.h"
#include "server/http/host_map.h"
#include "server/http/variables.h"

namespace server {

class Configuration;
class Request;

class MapTable {
  public:
    // ---- configuration ----
    std::string name;                      // of the variable, without $
    ComplexValue subject;
    bool host_names = false;
    bool is_volatile = false;
    const conf::Node* block = nullptr;     // its entries, as written

    // One entry of the block.
    conf::Result<void> add(const conf::Line& entry);
    void complete() { configured_ = values_.size(); }

    // ---- for requests ----
    Value evaluate(Request& request) const;

    // ---- changes at run time ----
    // An entry's name as it is known by: words in lower case, `\` only where it must be.
    static std::string canonical(core::Slice key);
    // An entry that is ready to be set: its value compiled, and its pattern.
    struct Entry {
        std::string key;
        ComplexValue value;
        std::shared_ptr<const core::Regex> regex;
        std::vector<std::pair<int, int>> captures;
    };
    // Only variables that the configuration mentions can be used: requests have places for those.
    core::Result<Entry> prepare(const std::string& key, core::Slice value) const;
    void set(Entry&& entry);
    void remove(const std::string& key);
    void restore(const std::string& key);  // as configured

    // The value of an entry of the block, as written; null: there is none.
    const std::string* configured(const std::string& key) const;
    size_t configured_count() const { return configured_; }

  private:
    struct Pattern {
        std::string key;
        std::shared_ptr<const core::Regex> regex;
        std::vector<std::pair<int, int>> captures;
        size_t value;
        bool removed = false;              // it stands in the block
    };
    static constexpr size_t none = SIZE_MAX;

    size_t choose(Request& request, core::Slice text) const;
    conf::Result<void> add_pattern(core::Slice pattern, size_t value);
    conf::Result<void> add_word(core::Slice word, size_t value);
    size_t configured_index(const std::string& key) const;
    size_t keep(ComplexValue&& value);
    void release(size_t value);
    Pattern* find_pattern(const std::string& key);
    void put_pattern(Entry&& entry, size_t value);
    void remove_pattern(const std::string& key);

    HostMap<size_t> words_;                // lower case, to an index into values_
    std::vector<Pattern> patterns_;        // in order
    // Those of the configuration stay: requests may hold on to them. The places behind them are
    // used again.
    std::vector<ComplexValue> values_;
    std::vector<size_t> free_values_;
    size_t configured_ = none;
    size_t default_ = none;
};

// Those of a configuration. Null without http{}.
const std::vector<std::unique_ptr<MapTable>>* maps_of(Configuration& configuration);

}  // namespace server
