// Turns a parsed tree into typed configuration by the modules' directive tables: contexts,
// argument counts, duplicates, unknown names (with the nearest known one), then inheritance.
//
// conf/ does not know what a server or a location is. Whoever owns a block directive tells the
// binder which level its children belong to: bind_block(node, context, level).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "conf/directive.h"

namespace conf {

// What the binder knows of a module (server::Module supplies it).
struct ModuleTable {
    const char* name;
    const Directive* directives;
    size_t count;
    void* (*create)();                        // null: no conf of its own
    void (*destroy)(void* conf);
    // After the fields were inherited: derived defaults, checks, containers. May be null. `outer`
    // is null at the outermost level.
    Result<void> (*merge)(void* conf, const void* outer, Binder& binder);
};

// The conf objects of one level: one slot per module, created on first use. A level in which a
// module was not mentioned shares the enclosing level's object once inherited.
class Level {
  public:
    Level(size_t modules, Level* outer, uint32_t context);
    ~Level();
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

    void* get(size_t module) const { return slots_[module]; }
    void* const* all() const { return slots_.data(); }
    bool owns(size_t module) const { return owned_[module]; }
    Level* outer() const { return outer_; }
    uint32_t context() const { return context_; }

  private:
    friend class Binder;
    std::vector<void*> slots_;
    std::vector<bool> owned_;
    std::vector<std::pair<void (*)(void*), void*>> made_;   // how to destroy what it owns
    Level* outer_;
    uint32_t context_;
    Place place_;
};

class Binder {
  public:
    explicit Binder(std::vector<ModuleTable> modules);

    // Applies the directives in `nodes` at `level`. Stops at the first error, which has the form
    //   unknown directive "foo" in /path/file:12
    // followed by the line itself and, for an unknown name, "did you mean …?". A tree that a syntax
    // error cut short gives that error, unless there is one further up.
    Result<void> bind(const std::vector<Node>& nodes, Level& level, Tree& tree);
    // For block directives: the children of node at a new level enclosed by the current one.
    Result<void> bind_block(const Line& line, Level& level);
    // For blocks whose owner reads them itself (map, types): calls `entry` for each, in order. A
    // nested block is an error, and errors are located at the entry.
    using EntryReader = std::function<Result<void>(const Line&)>;
    Result<void> each_entry(const Line& line, const EntryReader& entry);

    // The conf object of `module` at `level`, created when missing.
    void* own(Level& level, size_t module);

    // Inherits every level from its enclosing one, outermost first, calling merge. Levels are
    // given in order of creation (an outer one before its inner ones).
    Result<void> inherit(const std::vector<Level*>& levels);

    Level& current() const { return *level_; }       // the level being bound
    Tree& tree() const { return *tree_; }
    size_t module_count() const { return modules_.size(); }

    // Free slot for the owner of the binding (server/ keeps its Configuration here).
    void* subject = nullptr;
    std::string prefix;                              // -p, with a trailing slash
    std::string conf_prefix;                         // the configuration file's folder, likewise

    // A path argument made absolute: relative ones are relative to the prefix (or conf_prefix).
    std::string full_path(core::Slice path, bool relative_to_conf = false) const;

    // "text in /path/file:12", with the line itself below. A text that already says where is kept.
    Error error_at(const Place& place, const std::string& text) const;
    // Logged as [warn] once binding is over: "text in file:line".
    void warn(const Place& place, const std::string& text);
    const std::vector<std::string>& warnings() const { return warnings_; }

  private:
    struct Entry {
        core::Slice name;
        const Directive* directive;
        size_t module;
    };
    Result<void> apply(const Node& node);
    Result<const Entry*> choose(const Node& node) const;
    Error unknown(const Node& node) const;
    core::Slice nearest_name(core::Slice name) const;
    Result<void> inherit_level(Level& level);
    void* make(Level& level, size_t module);

    std::vector<ModuleTable> modules_;
    std::vector<Entry> index_;               // sorted by name; a name may have several rows
    Level* level_ = nullptr;
    Tree* tree_ = nullptr;
    std::vector<std::string> warnings_;
};

}  // namespace conf
