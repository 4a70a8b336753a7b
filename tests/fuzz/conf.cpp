// Fuzzes the configuration language: any text is parsed, and bound against a small table, without a
// crash; every error says where. Run by libFuzzer (build preset fuzz); seeds in seeds/conf/.
#include <cstdlib>
#include <memory>

#include "conf/binder.h"
#include "conf/parser.h"
#include "conf/values.h"

namespace {

using namespace conf;

struct Conf {
    Setting<bool> flag{false};
    Setting<int64_t> number{0};
    Setting<Bytes> bytes{};
    Setting<Offset> offset{};
    Setting<Milliseconds> ms{};
    Setting<Seconds> seconds{};
    Setting<BufferSizes> buffers{};
    Setting<std::vector<std::string>> words{};
    size_t seen = 0;
};

std::vector<std::unique_ptr<Level>>* levels;

template <uint32_t context>
Result<void> open_block(Conf&, const Line& line) {
    Binder& binder = line.binder;
    auto level = std::make_unique<Level>(binder.module_count(), &binder.current(), context);
    levels->push_back(std::move(level));
    return binder.bind_block(line, *levels->back());
}
Result<void> read_table(Conf& conf, const Line& line) {
    return line.binder.each_entry(line, [&](const Line& entry) -> Result<void> {
        ++conf.seen;
        if (entry.name() == "bad") return invalid_parameter(entry.name());
        return {};
    });
}
Result<void> lua(Conf& conf, const Line& line) {
    if (!line.node.is_lua || line.node.lua_line < 1) abort();
    conf.seen += line.arg(line.count() - 1).size();
    return {};
}

constexpr Directive directives[] = {
    {"http", in_main, takes_block(), call<open_block<in_http>>},
    {"server", in_http, takes_block(), call<open_block<in_server>>},
    {"location", in_server | in_location, takes_block(1, 2), call<open_block<in_location>>},
    {"types", in_any_http, takes_block(), call<read_table>},
    {"map", in_http, takes_block(2), call<read_table>},
    {"content_by_lua_block", in_location, takes_block(), call<lua>},
    {"set_by_lua_block", in_location, takes_block(1), call<lua>},
    {"sendfile", in_any_http, takes_flag(), field<&Conf::flag>},
    {"worker_processes", in_main, takes(1), field<&Conf::number>},
    {"client_header_buffer_size", in_any_http, takes(1), field<&Conf::bytes>},
    {"client_max_body_size", in_any_http, takes(1), field<&Conf::offset>},
    {"send_timeout", in_any_http, takes(1), field<&Conf::ms>},
    {"expires", in_any_http, takes(1), field<&Conf::seconds>},
    {"gzip_buffers", in_any_http, takes(2), field<&Conf::buffers>},
    {"listen", in_server, takes_at_least(1), field<&Conf::words>},
};

void check_error(const Tree& tree, const Error& error) {
    if (!is_located(tree, error.what)) abort();
}

void bind(Tree& tree) {
    std::vector<std::unique_ptr<Level>> held;
    levels = &held;
    Binder binder({{"fuzz", directives, std::size(directives), []() -> void* { return new Conf; },
                    [](void* conf) { delete static_cast<Conf*>(conf); }, nullptr}});
    held.push_back(std::make_unique<Level>(binder.module_count(), nullptr, in_main));
    auto bound = binder.bind(tree.nodes, *held[0], tree);
    if (!bound) return check_error(tree, bound.error());
    if (tree.syntax_error) abort();
    std::vector<Level*> all;
    for (auto& level : held) all.push_back(level.get());
    if (auto inherited = binder.inherit(all); !inherited) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    core::Slice text(reinterpret_cast<const char*>(data), size);
    // Includes would read this machine's files.
    if (text.find("include") != core::Slice::npos) return 0;
    for (bool as_option : {false, true}) {
        Tree tree;
        auto parsed = as_option ? parse_text(text, command_line_name, {}, tree)
                                : parse_source(text, "/fuzz.conf", {}, tree);
        if (!parsed) check_error(tree, parsed.error());
        bind(tree);
    }
    parse_size(text);
    parse_offset(text);
    parse_time_ms(text);
    parse_time_s(text);
    return 0;
}
