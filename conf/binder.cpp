// Matches the tree against the modules' directive tables and fills their confs, then inherits.
// What may stand where and in which number follows nginx (ngx_conf_handler).
#include "conf/binder.h"

#include <algorithm>
#include <utility>

#include "core/text.h"

namespace conf {

namespace {

constexpr size_t suggestion_distance_max = 3;

// The body of a *_by_lua_block is no argument that tables count.
int argument_count(const Node& node) { return int(node.args.size()) - (node.is_lua ? 1 : 0); }

bool fits(const Arity& arity, const Node& node) {
    int count = argument_count(node);
    return count >= arity.least && count <= arity.most &&
           node.has_block == (arity.shape == Arity::block);
}

std::string arity_error(const Arity& arity, const Node& node) {
    bool wants_block = arity.shape == Arity::block;
    if (node.has_block && !wants_block) {
        return "directive \"" + node.name + "\" is not terminated by \";\"";
    }
    if (wants_block && !node.has_block) {
        return "directive \"" + node.name + "\" has no opening \"{\"";
    }
    return "invalid number of arguments in \"" + node.name + "\" directive";
}

}  // namespace

Level::Level(size_t modules, Level* outer, uint32_t context)
    : slots_(modules), owned_(modules), outer_(outer), context_(context) {}

Level::~Level() {
    for (auto made = made_.rbegin(); made != made_.rend(); ++made) {
        if (made->first) made->first(made->second);
    }
}

Binder::Binder(std::vector<ModuleTable> modules) : modules_(std::move(modules)) {
    for (size_t module = 0; module < modules_.size(); ++module) {
        const ModuleTable& table = modules_[module];
        for (size_t i = 0; i < table.count; ++i) {
            index_.push_back({table.directives[i].name, &table.directives[i], module});
        }
    }
    std::stable_sort(index_.begin(), index_.end(),
                     [](const Entry& a, const Entry& b) { return a.name < b.name; });
}

Result<void> Binder::bind(const std::vector<Node>& nodes, Level& level, Tree& tree) {
    Tree* outer_tree = std::exchange(tree_, &tree);
    Level* outer_level = std::exchange(level_, &level);
    Result<void> result;
    for (const Node& node : nodes) {
        result = apply(node);
        if (!result) break;
    }
    if (result && &nodes == &tree.nodes && tree.syntax_error) result = *tree.syntax_error;
    level_ = outer_level;
    if (outer_tree) tree_ = outer_tree;
    return result;
}

Result<void> Binder::bind_block(const Line& line, Level& level) {
    level.place_ = line.node.place;
    auto bound = bind(line.node.children, level, *tree_);
    if (bound && line.node.is_cut) return *tree_->syntax_error;
    return bound;
}

Result<void> Binder::each_entry(const Line& line, const EntryReader& entry) {
    for (const Node& node : line.node.children) {
        if (node.has_block) return error_at(node.place, "unexpected \"{\"");
        auto result = entry(Line{node, *this, line.context});
        if (!result) return error_at(node.place, result.error().what);
    }
    if (line.node.is_cut) return *tree_->syntax_error;
    return {};
}

Result<void> Binder::apply(const Node& node) {
    auto entry = choose(node);
    if (!entry) return entry.take_error();
    void* conf = own(*level_, (*entry)->module);
    Level* level = level_;
    auto applied = (*entry)->directive->apply(conf, Line{node, *this, level->context()});
    level_ = level;
    if (applied) return {};
    const std::string& what = applied.error().what;
    if (what == "is duplicate" || what == "invalid number" || what == "invalid value") {
        return error_at(node.place, "\"" + node.name + "\" directive " + what);
    }
    return error_at(node.place, what);
}

// Of the rows with this name the one for the current context; where there are several, the one that
// takes as many arguments as were given.
Result<const Binder::Entry*> Binder::choose(const Node& node) const {
    auto less = [](const Entry& entry, core::Slice name) { return entry.name < name; };
    auto first = std::lower_bound(index_.begin(), index_.end(), core::Slice(node.name), less);
    if (first == index_.end() || first->name != node.name) {
        if (node.name == "include") return error_at(node.place, arity_error(takes(1), node));
        return unknown(node);
    }
    const Entry* chosen = nullptr;
    for (auto row = first; row != index_.end() && row->name == node.name; ++row) {
        if (!(row->directive->contexts & level_->context())) continue;
        if (fits(row->directive->arity, node)) return &*row;
        if (!chosen) chosen = &*row;
    }
    if (!chosen) return error_at(node.place, "\"" + node.name + "\" directive is not allowed here");
    return error_at(node.place, arity_error(chosen->directive->arity, node));
}

Error Binder::unknown(const Node& node) const {
    Error error = error_at(node.place, "unknown directive \"" + node.name + "\"");
    core::Slice nearest = nearest_name(node.name);
    if (!nearest.empty()) error.what += "\n    did you mean \"" + std::string(nearest) + "\"?";
    return error;
}

// Empty when no name is near enough. Of equally near ones, one that may stand here is preferred.
core::Slice Binder::nearest_name(core::Slice name) const {
    size_t limit = std::min(suggestion_distance_max, name.size() / 3);
    core::Slice best;
    size_t best_distance = 2 * limit + 2;
    for (const Entry& entry : index_) {
        size_t distance = core::edit_distance(name, entry.name, limit);
        if (distance > limit) continue;
        distance = 2 * distance + !(entry.directive->contexts & level_->context());
        if (distance < best_distance) {
            best = entry.name;
            best_distance = distance;
        }
    }
    return best;
}

void* Binder::own(Level& level, size_t module) {
    return level.owned_[module] ? level.slots_[module] : make(level, module);
}

void* Binder::make(Level& level, size_t module) {
    const ModuleTable& table = modules_[module];
    if (!table.create) return nullptr;
    void* conf = table.create();
    level.slots_[module] = conf;
    level.owned_[module] = true;
    level.made_.emplace_back(table.destroy, conf);
    return conf;
}

Result<void> Binder::inherit(const std::vector<Level*>& levels) {
    Level* outer_level = level_;
    Result<void> result;
    for (Level* level : levels) {
        level_ = level;
        result = inherit_level(*level);
        if (result) continue;
        result = error_at(level->place_, result.error().what);
        break;
    }
    level_ = outer_level;
    return result;
}

// A module that the level does not mention shares the enclosing conf, which is complete by now.
Result<void> Binder::inherit_level(Level& level) {
    for (size_t module = 0; module < modules_.size(); ++module) {
        const ModuleTable& table = modules_[module];
        if (!table.create) continue;
        const void* outer = level.outer_ ? level.outer_->slots_[module] : nullptr;
        if (!level.owned_[module]) {
            if (outer) {
                level.slots_[module] = level.outer_->slots_[module];
                continue;
            }
            make(level, module);
        }
        void* conf = level.slots_[module];
        for (size_t i = 0; outer && i < table.count; ++i) {
            if (table.directives[i].inherit) table.directives[i].inherit(conf, outer);
        }
        if (!table.merge) continue;
        auto merged = table.merge(conf, outer, *this);
        if (!merged) return merged;
    }
    return {};
}

std::string Binder::full_path(core::Slice path, bool relative_to_conf) const {
    if (path.starts_with('/')) return std::string(path);
    return (relative_to_conf ? conf_prefix : prefix) + std::string(path);
}

Error Binder::error_at(const Place& place, const std::string& text) const {
    if (!tree_) return Error{text + place_suffix(place)};
    if (is_located(*tree_, text)) return Error{text};
    return Error{located(*tree_, place, text)};
}

void Binder::warn(const Place& place, const std::string& text) {
    warnings_.push_back(text + place_suffix(place));
}

}  // namespace conf
