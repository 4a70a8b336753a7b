// Variables and the texts that contain them. Names become indexes while the configuration is
// loaded; a ComplexValue is compiled once and evaluated in one appending pass into the request's
// arena. Nothing here allocates from the heap per request.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "conf/directive.h"
#include "core/slice.h"
#include "server/module.h"

namespace core {
class Appender;
class Regex;
}

namespace server {

class Request;
class Configuration;

// All variables of a configuration: the built-in ones of every module, and those that directives
// define (set, map, geo, …).
class VariableTable {
  public:
    VariableTable();                  // collects the modules' tables
    ~VariableTable();

    // Defines a variable from a directive. The name must not clash with a built-in one that is not
    // changeable (`the duplicate "x" variable`). `definition.name` is copied.
    conf::Result<int> define(core::Slice name, const Variable& definition);
    // For `set`: a plain variable that holds what it is given; reading it before logs a warning.
    conf::Result<int> define_plain(core::Slice name);
    // For regex captures: the same, but not found (and not worth a warning) until it is given.
    conf::Result<int> define_capture(core::Slice name);
    // The index for reading $name; whether it exists is checked when all is bound.
    int use(core::Slice name, const conf::Place& place);
    // After binding: every used name must be known (`unknown "x" variable`).
    conf::Result<void> check(conf::Binder& binder);

    size_t count() const { return entries_.size(); }
    core::Slice name(int index) const { return entries_[size_t(index)].name; }
    const Variable* definition(int index) const { return entries_[size_t(index)].definition; }
    int find(core::Slice name) const;                 // -1: not indexed
    // A definition for a name that is not indexed: built-in or by prefix (`rest` is then set).
    const Variable* lookup(core::Slice name, core::Slice& rest) const;

  private:
    struct Entry {
        std::string name;
        const Variable* definition = nullptr;         // null: unknown so far
        std::string rest;                             // behind a prefix
        conf::Place place;
        bool weak = false;                            // plain: any other definition wins
    };
    friend Value variable(Request&, int);
    friend Value variable_fresh(Request&, int);
    struct Hash {
        using is_transparent = void;
        size_t operator()(core::Slice text) const { return std::hash<core::Slice>{}(text); }
    };
    template <class T>
    using Map = std::unordered_map<std::string, T, Hash, std::equal_to<>>;

    int index_of(core::Slice name);
    conf::Result<int> define_weak(core::Slice name, const Variable& definition);
    const Variable* prefix_of(core::Slice name, core::Slice& rest) const;

    std::vector<Entry> entries_;
    Map<int> by_name_;
    Map<const Variable*> built_in_;
    std::vector<const Variable*> prefixes_;
    std::vector<std::unique_ptr<Variable>> owned_;
    std::vector<std::unique_ptr<std::string>> owned_names_;
};

// Makes the request's slots (before a subrequest shares them, for instance).
void make_variables(Request& request);
// The value of an indexed variable, cached in the request unless volatile.
Value variable(Request& request, int index);
// The same without looking at the cache, and not storing (volatile maps, ngx.var).
Value variable_fresh(Request& request, int index);
// By name, any kind (ngx.var). Lower-case name expected.
Value variable_by_name(Request& request, core::Slice name);
// Stores a value for an indexed, changeable variable, calling its setter when it has one. The text
// must live as long as the request.
void set_variable(Request& request, int index, core::Slice value);
void clear_variable(Request& request, int index);     // becomes not found
// By name (lower case): false when there is no such variable or it cannot be changed; `why` is then
// nginx-lua's text, in the request's arena.
bool set_variable_by_name(Request& request, core::Slice name, core::Slice value, const char*& why);

// Text with variables and captures: "https://$host$request_uri", "/x/$1".
class ComplexValue {
  public:
    ComplexValue() = default;
    explicit ComplexValue(core::Slice constant);      // taken literally
    // Compiles; `place` is for messages. A '$' that names nothing is an error (`invalid variable
    // name in "…"`).
    static conf::Result<ComplexValue> compile(core::Slice text, const conf::Line& line);
    static conf::Result<ComplexValue> compile(core::Slice text, VariableTable& table,
                                              const conf::Place& place);

    // One pass into the request's arena; a value of one part is not copied.
    core::Slice evaluate(Request& request) const;
    void append_to(core::Appender& to, Request& request) const;
    bool empty() const { return parts_.empty(); }
    bool is_constant() const;
    core::Slice constant() const {
        return parts_.empty() ? core::Slice{} : core::Slice(parts_[0].text);
    }
    core::Slice source() const { return source_; }    // as written
    bool uses_captures() const;

    struct Part {
        enum Kind : uint8_t { literal, variable, capture } kind;
        std::string text;                             // literal
        int index = 0;                                // variable or group
    };
    const std::vector<Part>& parts() const { return parts_; }

  private:
    std::vector<Part> parts_;
    std::string source_;
};

conf::Result<void> parse_setting(ComplexValue& to, const conf::Line& line);

// "$name" for whoever is told which variable to define: the name without '$', lower-cased, or
// `invalid variable name "…"`.
conf::Result<std::string> variable_name(core::Slice written);

// Matches a regex against text for the request: sets request.captures and named captures. The
// subject must live as long as the request (as a variable's value does). `named`: pairs of group,
// variable index. True when it matched; otherwise the captures stay as they were.
bool match_captures(Request& request, const core::Regex& regex, core::Slice subject,
                    const std::vector<std::pair<int, int>>& named);
// At configuration time: defines a plain variable for each named group.
conf::Result<std::vector<std::pair<int, int>>> define_captures(const core::Regex& regex,
                                                               VariableTable& table);

}  // namespace server
