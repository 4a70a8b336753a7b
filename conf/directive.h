// The table language in which modules declare their directives.
//
//   struct Conf { Setting<int64_t> rate{0}; Setting<bool> enabled{true}; };
//   constexpr Directive directives[] = {
//       {"demo_rate", in_http | in_server | in_location, takes(1), field<&Conf::rate>},
//       {"demo_allow", in_location, takes(1), call<add_rule>},
//   };
//
// field<> parses, stores, refuses duplicates and inherits by the member's type: the type's
// parse_setting() overload (conf/values.h, or beside the type) says how its text is read. call<>
// hands the directive to a function. inherit copies unset fields from the enclosing level.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "conf/tree.h"
#include "core/result.h"

namespace conf {

class Binder;

// Where a directive may stand, as bits. A directive's contexts are those of the nginx manual.
enum Context : uint32_t {
    in_main = 1u << 0,
    in_events = 1u << 1,
    in_http = 1u << 2,
    in_server = 1u << 3,
    in_location = 1u << 4,
    in_server_if = 1u << 5,
    in_location_if = 1u << 6,
    in_limit_except = 1u << 7,
    in_upstream = 1u << 8,
    in_stream = 1u << 9,
    in_stream_server = 1u << 10,
    in_stream_upstream = 1u << 11,
    in_any_http = in_http | in_server | in_location,
};

// How many arguments a directive takes.
struct Arity {
    int least = 0;
    int most = 0;
    enum Shape : uint8_t { plain, block, flag } shape = plain;
};
constexpr Arity takes(int count) { return {count, count}; }
constexpr Arity takes(int least, int most) { return {least, most}; }
constexpr Arity takes_at_least(int least) { return {least, INT32_MAX}; }
constexpr Arity takes_flag() { return {1, 1, Arity::flag}; }                  // on | off
constexpr Arity takes_block(int least = 0, int most = 0) {
    return {least, most < least ? least : most, Arity::block};
}

// What a directive's function is told.
struct Line {
    const Node& node;
    Binder& binder;             // for blocks: binder.bind_block(node, context, …)
    uint32_t context;           // the one Context bit it stands in
    core::Slice name() const { return node.name; }
    size_t count() const { return node.args.size(); }
    core::Slice arg(size_t index) const { return node.args[index]; }   // 0: the first argument
};

using core::Error;
using core::Result;

// A value that knows whether it was given. The initialiser is the default.
template <class T>
struct Setting {
    T value{};
    bool is_set = false;

    constexpr Setting() = default;
    constexpr Setting(T initial) : value(std::move(initial)) {}
    operator const T&() const { return value; }
    const T& operator*() const { return value; }
    const T* operator->() const { return &value; }
    void set(T v) { value = std::move(v); is_set = true; }
    void inherit(const Setting& outer) {
        if (!is_set && outer.is_set) *this = outer;
    }
    // For a default that depends on something else.
    void set_default(T v) { if (!is_set) value = std::move(v); }
};

// One row of a module's table.
struct Directive {
    const char* name;
    uint32_t contexts;
    Arity arity;
    // `conf` is the module's conf object of the level the directive stands in.
    Result<void> (*apply)(void* conf, const Line& line);
    // Copies what is unset from the enclosing level's conf; null when apply is a function.
    void (*inherit)(void* conf, const void* outer) = nullptr;

    constexpr Directive(const char* n, uint32_t c, Arity a,
                        Result<void> (*f)(void*, const Line&))
        : name(n), contexts(c), arity(a), apply(f) {}
    struct FieldOps {
        Result<void> (*apply)(void*, const Line&);
        void (*inherit)(void*, const void*);
    };
    constexpr Directive(const char* n, uint32_t c, Arity a, FieldOps ops)
        : name(n), contexts(c), arity(a), apply(ops.apply), inherit(ops.inherit) {}
};

namespace detail {
template <class> struct MemberOf;
template <class C, class M> struct MemberOf<M C::*> { using Class = C; using Type = M; };
Error duplicate();
}  // namespace detail

// parse_setting(T& to, const Line&) is found by overload: see conf/values.h for the usual types.
// `Class` is a parameter of its own because gcc gives a template over a bare pointer to member
// external linkage even if the class is local to its file: equally named members of two files' Conf
// would be one function.
//
// A type that collects (parse_setting adds to it) says so by `static constexpr bool repeatable`.
template <class Class, auto member>
Result<void> apply_field(void* conf, const Line& line) {
    auto& setting = static_cast<Class*>(conf)->*member;
    if constexpr (!requires { decltype(setting.value)::repeatable; }) {
        if (setting.is_set) return detail::duplicate();
    }
    auto parsed = parse_setting(setting.value, line);
    if (parsed) setting.is_set = true;
    return parsed;
}
template <class Class, auto member>
void inherit_field(void* conf, const void* outer) {
    (static_cast<Class*>(conf)->*member).inherit(static_cast<const Class*>(outer)->*member);
}
template <auto member>
inline constexpr Directive::FieldOps field{
    apply_field<typename detail::MemberOf<decltype(member)>::Class, member>,
    inherit_field<typename detail::MemberOf<decltype(member)>::Class, member>};

// function: Result<void>(Conf&, const Line&)
template <class Conf, Result<void> (*function)(Conf&, const Line&)>
Result<void> apply_call(void* conf, const Line& line) {
    return function(*static_cast<Conf*>(conf), line);
}
namespace detail {
template <class> struct FirstArgument;
template <class C> struct FirstArgument<Result<void> (*)(C&, const Line&)> { using Type = C; };
}  // namespace detail
template <auto function>
inline constexpr auto call =
    &apply_call<typename detail::FirstArgument<decltype(function)>::Type, function>;

// Error texts in nginx's wording. A function that fails returns one of these, or an Error with a
// text of its own: the binder adds where it stands. "is duplicate", "invalid number" and "invalid
// value" alone become `"x" directive is duplicate` and so on.
Error invalid_value(const Line& line, core::Slice value);     // invalid value "x" in "d" directive
Error invalid_value(core::Slice value);                       // invalid value "x"
Error invalid_parameter(core::Slice parameter);               // invalid parameter "x"
Error directive_error(const Line& line, core::Slice text);    // "d" directive TEXT

}  // namespace conf
