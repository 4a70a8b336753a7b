// The table of variables, their per-request slots, and the texts that contain them (ComplexValue).
// Modules bring their variables in tables, directives add more while the configuration is bound;
// at run time everything is an index. Names are case-insensitive and kept in lower case.
#include "server/http/variables.h"

#include <algorithm>
#include <cstring>

#include "core/regex.h"
#include "core/text.h"
#include "server/http/request.h"
#include "server/http/script.h"

namespace server {

namespace {

using core::Slice;

// A variable of `set` that was never set; `name` comes through the entry's rest.
Value uninitialized(Request& request, Slice name, uintptr_t) {
    if (warns_uninitialized(request)) {
        LOG(request.log, warn, 0, "using uninitialized \"%.*s\" variable", int(name.size()),
            name.data());
    }
    return Slice("", 0);
}

Value not_found(Request&, Slice, uintptr_t) { return Value::none(); }

constexpr Variable plain{"", uninitialized, Variable::changeable};
constexpr Variable capture{"", not_found, Variable::changeable};

bool is_name_char(char c) { return core::is_alpha(c) || core::is_digit(c) || c == '_'; }

core::Error duplicate(Slice name) {
    return {"the duplicate \"" + std::string(name) + "\" variable"};
}

}  // namespace

VariableTable::VariableTable() {
    for (const Module* module : modules()) {
        for (const Variable& variable : module->variables) {
            if (variable.flags & Variable::prefix) {
                prefixes_.push_back(&variable);
            } else {
                built_in_.emplace(variable.name, &variable);
            }
        }
    }
    // The longest prefix wins.
    std::stable_sort(prefixes_.begin(), prefixes_.end(), [](const Variable* a, const Variable* b) {
        return std::strlen(a->name) > std::strlen(b->name);
    });
}

VariableTable::~VariableTable() = default;

int VariableTable::index_of(Slice name) {
    std::string key = core::to_lower(name);
    auto [at, added] = by_name_.try_emplace(key, int(entries_.size()));
    if (added) entries_.emplace_back().name = std::move(key);
    return at->second;
}

const Variable* VariableTable::prefix_of(Slice name, Slice& rest) const {
    for (const Variable* candidate : prefixes_) {
        Slice prefix = candidate->name;
        if (name.size() >= prefix.size() && name.substr(0, prefix.size()) == prefix) {
            rest = name.substr(prefix.size());
            return candidate;
        }
    }
    return nullptr;
}

conf::Result<int> VariableTable::define(Slice name, const Variable& definition) {
    if (name.empty()) return core::Error{"invalid variable name \"$\""};
    auto built_in = built_in_.find(core::to_lower(name));
    if (built_in != built_in_.end() && !(built_in->second->flags & Variable::changeable)) {
        return duplicate(name);
    }
    int index = index_of(name);
    Entry& entry = entries_[size_t(index)];
    if (entry.definition && !entry.weak && !(entry.definition->flags & Variable::changeable)) {
        return duplicate(name);
    }
    owned_names_.push_back(std::make_unique<std::string>(entry.name));
    owned_.push_back(std::make_unique<Variable>(definition));
    owned_.back()->name = owned_names_.back()->c_str();
    entry.definition = owned_.back().get();
    entry.weak = false;
    return index;
}

// A definition that leaves a built-in changeable variable, and any earlier one, in its place.
conf::Result<int> VariableTable::define_weak(Slice name, const Variable& definition) {
    if (name.empty()) return core::Error{"invalid variable name \"$\""};
    auto built_in = built_in_.find(core::to_lower(name));
    if (built_in != built_in_.end() && !(built_in->second->flags & Variable::changeable)) {
        return duplicate(name);
    }
    int index = index_of(name);
    Entry& entry = entries_[size_t(index)];
    if (entry.definition) {
        if (!(entry.definition->flags & (Variable::changeable | Variable::prefix))) {
            return duplicate(name);
        }
        return index;
    }
    Slice rest;
    if (built_in != built_in_.end()) {
        entry.definition = built_in->second;
    } else if (const Variable* prefix = prefix_of(entry.name, rest)) {
        entry.definition = prefix;
        entry.rest = rest;
    } else {
        entry.definition = &definition;
        entry.rest = entry.name;
        entry.weak = true;
    }
    return index;
}

conf::Result<int> VariableTable::define_plain(Slice name) { return define_weak(name, plain); }
conf::Result<int> VariableTable::define_capture(Slice name) { return define_weak(name, capture); }

int VariableTable::use(Slice name, const conf::Place& place) {
    int index = index_of(name);
    Entry& entry = entries_[size_t(index)];
    if (!entry.place.file) entry.place = place;
    return index;
}

conf::Result<void> VariableTable::check(conf::Binder& binder) {
    for (Entry& entry : entries_) {
        if (entry.definition) continue;
        Slice rest;
        entry.definition = lookup(entry.name, rest);
        entry.rest = rest;
        if (entry.definition) continue;
        std::string text = "unknown \"" + entry.name + "\" variable";
        if (!entry.place.file) return core::Error{text};
        return binder.error_at(entry.place, text);
    }
    return {};
}

int VariableTable::find(Slice name) const {
    auto at = by_name_.find(name);
    return at == by_name_.end() ? -1 : at->second;
}

const Variable* VariableTable::lookup(Slice name, Slice& rest) const {
    rest = {};
    auto at = built_in_.find(name);
    if (at != built_in_.end()) return at->second;
    return prefix_of(name, rest);
}

void make_variables(Request& request) {
    if (request.variables) return;
    size_t count = Configuration::current().variables().count();
    request.variables = request.arena.make_array<Request::VariableSlot>(count);
    std::memset(static_cast<void*>(request.variables), 0, count * sizeof(Request::VariableSlot));
}

Value variable_fresh(Request& request, int index) {
    const VariableTable::Entry& entry =
        Configuration::current().variables().entries_[size_t(index)];
    if (!entry.definition) return Value::none();
    return entry.definition->get(request, entry.rest, entry.definition->data);
}

Value variable(Request& request, int index) {
    if (!request.variables) make_variables(request);
    Request::VariableSlot& slot = request.variables[index];
    if (slot.state == Request::VariableSlot::found) return slot.text;
    if (slot.state == Request::VariableSlot::missing) return Value::none();
    const VariableTable::Entry& entry =
        Configuration::current().variables().entries_[size_t(index)];
    if (!entry.definition) return Value::none();
    Value value = entry.definition->get(request, entry.rest, entry.definition->data);
    if (!(entry.definition->flags & Variable::volatile_)) {
        // Not through `slot`: the getter may have run anything.
        request.variables[index] = {value.text, value.found ? Request::VariableSlot::found
                                                            : Request::VariableSlot::missing};
    }
    return value;
}

Value variable_by_name(Request& request, Slice name) {
    const VariableTable& table = Configuration::current().variables();
    int index = table.find(name);
    if (index >= 0 && table.definition(index)) return variable(request, index);
    Slice rest;
    const Variable* definition = table.lookup(name, rest);
    return definition ? definition->get(request, rest, definition->data) : Value::none();
}

void set_variable(Request& request, int index, Slice value) {
    const Variable* definition = Configuration::current().variables().definition(index);
    if (definition && definition->set) {
        definition->set(request, value, definition->data);
        return;
    }
    make_variables(request);
    request.variables[index] = {value, Request::VariableSlot::found};
}

void clear_variable(Request& request, int index) {
    make_variables(request);
    request.variables[index] = {{}, Request::VariableSlot::missing};
}

bool set_variable_by_name(Request& request, Slice name, Slice value, const char*& why) {
    const VariableTable& table = Configuration::current().variables();
    int index = table.find(name);
    Slice rest;
    const Variable* definition = index >= 0 ? table.definition(index) : nullptr;
    if (!definition) {
        index = -1;
        definition = table.lookup(name, rest);
    }
    // What only a prefix knows ($arg_x) does not exist for writing.
    if (definition && definition->flags & Variable::prefix) definition = nullptr;
    std::string quoted = "variable \"" + std::string(name) + "\" ";
    if (!definition) {
        quoted += "not found for writing; maybe it is a built-in variable that is not changeable "
                  "or you forgot to use \"set $" + std::string(name) +
                  " '';\" in the config file to define it first";
    } else if (!(definition->flags & Variable::changeable)) {
        quoted += "not changeable";
    } else if (definition->set) {
        definition->set(request, value, definition->data);
        return true;
    } else if (index >= 0) {
        set_variable(request, index, value);
        return true;
    } else {
        quoted += "cannot be assigned a value";
    }
    why = request.arena.copy_z(quoted).data();
    return false;
}

conf::Result<std::string> variable_name(Slice written) {
    if (written.size() < 2 || written[0] != '$') {
        return core::Error{"invalid variable name \"" + std::string(written) + "\""};
    }
    return core::to_lower(written.substr(1));
}

// ---- complex values ----

ComplexValue::ComplexValue(Slice constant) : source_(constant) {
    parts_.push_back({Part::literal, std::string(constant)});
}

conf::Result<ComplexValue> ComplexValue::compile(Slice text, const conf::Line& line) {
    return compile(text, Configuration::current().variables(), line.node.place);
}

conf::Result<ComplexValue> ComplexValue::compile(Slice text, VariableTable& table,
                                                 const conf::Place& place) {
    ComplexValue value;
    value.source_ = text;
    for (size_t at = 0; at < text.size();) {
        if (text[at] != '$') {
            size_t end = std::min(text.find('$', at), text.size());
            value.parts_.push_back({Part::literal, std::string(text.substr(at, end - at))});
            at = end;
            continue;
        }
        ++at;
        if (at < text.size() && text[at] >= '1' && text[at] <= '9') {
            value.parts_.push_back({Part::capture, {}, text[at] - '0'});
            ++at;
            continue;
        }
        bool bracket = at < text.size() && text[at] == '{';
        if (bracket) ++at;
        size_t end = at;
        while (end < text.size() && is_name_char(text[end])) ++end;
        Slice name = text.substr(at, end - at);
        if (bracket && (end == text.size() || text[end] != '}')) {
            if (name.empty() && end == text.size()) {
                return core::Error{"invalid variable name"};
            }
            return core::Error{"the closing bracket in \"" + std::string(name) +
                               "\" variable is missing"};
        }
        if (name.empty()) {
            return core::Error{"invalid variable name"};
        }
        value.parts_.push_back({Part::variable, {}, table.use(name, place)});
        at = end + (bracket ? 1 : 0);
    }
    // An empty text is one empty part: it is not the same as a value that was never given.
    if (value.parts_.empty()) value.parts_.push_back({Part::literal, {}});
    return value;
}

void ComplexValue::append_to(core::Appender& to, Request& request) const {
    for (const Part& part : parts_) {
        switch (part.kind) {
        case Part::literal: to.append(Slice(part.text)); break;
        case Part::variable: to.append(server::variable(request, part.index).text); break;
        case Part::capture: to.append(request.captures.group(part.index)); break;
        }
    }
}

core::Slice ComplexValue::evaluate(Request& request) const {
    if (parts_.size() == 1) {
        const Part& part = parts_[0];
        if (part.kind == Part::literal) return part.text;
        if (part.kind == Part::capture) return request.captures.group(part.index);
        return server::variable(request, part.index).text;
    }
    if (parts_.empty()) return {};
    // Values are asked for first: a getter may itself take memory from the arena, and the text is
    // to be one run without moving.
    constexpr size_t few = 16;
    if (parts_.size() <= few) {
        Slice texts[few];
        size_t size = 0;
        for (size_t i = 0; i < parts_.size(); ++i) {
            const Part& part = parts_[i];
            texts[i] = part.kind == Part::literal    ? Slice(part.text)
                       : part.kind == Part::variable ? server::variable(request, part.index).text
                                                     : request.captures.group(part.index);
            size += texts[i].size();
        }
        char* room = request.arena.bytes(size);
        char* at = room;
        for (size_t i = 0; i < parts_.size(); ++i) {
            if (texts[i].empty()) continue;
            std::memcpy(at, texts[i].data(), texts[i].size());
            at += texts[i].size();
        }
        return {room, size};
    }
    core::Appender text(request.arena);
    append_to(text, request);
    return text.take();
}

bool ComplexValue::is_constant() const {
    return parts_.empty() || (parts_.size() == 1 && parts_[0].kind == Part::literal);
}

bool ComplexValue::uses_captures() const {
    return std::any_of(parts_.begin(), parts_.end(),
                       [](const Part& part) { return part.kind == Part::capture; });
}

conf::Result<void> parse_setting(ComplexValue& to, const conf::Line& line) {
    auto value = ComplexValue::compile(line.arg(0), line);
    if (!value) return value.take_error();
    to = std::move(*value);
    return {};
}

// ---- captures ----

bool match_captures(Request& request, const core::Regex& regex, Slice subject,
                    const std::vector<std::pair<int, int>>& named) {
    constexpr int pairs_on_stack = 32;
    uint32_t room[2 * pairs_on_stack];
    int pairs = regex.groups() + 1;
    uint32_t* offsets =
        pairs <= pairs_on_stack ? room : request.arena.make_array<uint32_t>(size_t(pairs) * 2);
    int matched = regex.match(subject, 0, offsets, pairs);
    if (matched < 0) {
        if (matched != core::Regex::no_match) {
            LOG(request.log, alert, 0, "pcre2_match() failed: %d on \"%.*s\" using \"%s\"", matched,
                int(subject.size()), subject.data(), regex.pattern().c_str());
        }
        return false;
    }
    if (offsets == room) {
        offsets = request.arena.make_array<uint32_t>(size_t(pairs) * 2);
        std::memcpy(offsets, room, size_t(pairs) * 2 * sizeof(uint32_t));
    }
    request.captures = {subject, offsets, matched};
    for (auto [group, index] : named) {
        Slice text = request.captures.group(group);
        set_variable(request, index, text.data() ? text : Slice("", 0));
    }
    return true;
}

conf::Result<std::vector<std::pair<int, int>>> define_captures(const core::Regex& regex,
                                                               VariableTable& table) {
    std::vector<std::pair<int, int>> named;
    for (const core::Regex::Name& name : regex.names()) {
        auto index = table.define_capture(name.name);
        if (!index) return index.take_error();
        named.emplace_back(name.group, *index);
    }
    return named;
}

}  // namespace server
