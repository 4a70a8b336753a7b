// set_misc: set_escape_uri, set_quote_sql_str, set_md5, set_random and their like. Each adds a step
// to the rewrite script at its place: the variable is given what a function makes of the arguments.
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <cstring>
#include <ctime>
#include <unordered_map>

#include "core/base64.h"
#include "core/clock.h"
#include "core/text.h"
#include "server/http/escape.h"
#include "server/http/modules/set_misc_text.h"
#include "server/http/request.h"
#include "server/http/script.h"
#include "server/http/text_functions.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

struct Call;
struct SetMiscConf;

// Where a function is called.
struct Place {
    core::Arena& arena;
    const core::LogContext& log;
    const SetMiscConf& conf;
};

// `args`: the evaluated arguments. False: the request fails, why has been logged.
using Function = bool (*)(const Place& place, const Call& call, const Slice* args, Value& value);

struct Call {
    static constexpr size_t arguments_max = 3;
    Function function;
    std::vector<ComplexValue> arguments;
    const std::vector<std::string>* upstreams = nullptr;   // of set_hashed_upstream
};

struct SetMiscConf {
    std::vector<std::unique_ptr<Call>> calls;
    conf::Setting<bool> base32_padding{true};
    conf::Setting<std::string> base32_alphabet{"0123456789abcdefghijklmnopqrstuv"};
    std::unordered_map<std::string, std::vector<std::string>> upstream_lists;   // http level
    mutable int64_t rotated = INT64_MIN;      // set_rotate's last value here
};

extern const Module module_set_misc;

void log_bad(const Place& place, const char* what, Slice value) {
    LOG(place.log, error, 0, "%s: \"%.*s\"", what, int(value.size()), value.data());
}

bool set_text(const Place& place, Value& value, Slice text, const char* who) {
    if (!text.data()) {
        LOG(place.log, error, 0, "%s: invalid value", who);
        return false;
    }
    value = text;
    return true;
}

// ---- escaping and encoding ----

bool unescape_uri(const Place& place, const Call&, const Slice* args, Value& value) {
    value = unescape(place.arena, args[0], true);
    return true;
}
bool escape_uri_(const Place& place, const Call&, const Slice* args, Value& value) {
    value = escape_component_loosely(place.arena, args[0]);
    return true;
}
bool quote_sql_(const Place& place, const Call&, const Slice* args, Value& value) {
    value = quote_sql(place.arena, args[0]);
    return true;
}
bool quote_pgsql_(const Place& place, const Call&, const Slice* args, Value& value) {
    value = quote_pgsql(place.arena, args[0]);
    return true;
}
bool quote_json_(const Place& place, const Call&, const Slice* args, Value& value) {
    value = quote_json(place.arena, args[0]);
    return true;
}
bool if_empty(const Place&, const Call&, const Slice* args, Value& value) {
    value = args[0].empty() ? args[1] : args[0];
    return true;
}
bool encode_base32_(const Place& place, const Call&, const Slice* args, Value& value) {
    const SetMiscConf& conf = place.conf;
    value = encode_base32(place.arena, args[0], *conf.base32_alphabet, conf.base32_padding);
    return true;
}
bool decode_base32_(const Place& place, const Call&, const Slice* args, Value& value) {
    Slice text = decode_base32(place.arena, args[0], *place.conf.base32_alphabet);
    value = text.data() ? text : Slice("", 0);
    return true;
}
bool encode_base64_(const Place& place, const Call&, const Slice* args, Value& value) {
    value = core::encode_base64(place.arena, args[0]);
    return true;
}
bool decode_base64_(const Place& place, const Call&, const Slice* args, Value& value) {
    return set_text(place, value, core::decode_base64(place.arena, args[0]),
                    "set_decode_base64");
}
bool encode_base64url(const Place& place, const Call&, const Slice* args, Value& value) {
    char* room = place.arena.bytes(core::base64_encoded_bytes(args[0].size()));
    char* end = core::encode_base64_into(room, args[0], false, true);
    value = Slice(room, size_t(end - room));
    return true;
}
bool decode_base64url(const Place& place, const Call&, const Slice* args, Value& value) {
    char* room = place.arena.bytes(core::base64_decoded_bytes_max(args[0].size()) + 1);
    char* end = core::decode_base64_into(room, args[0], true);
    return set_text(place, value, end ? Slice(room, size_t(end - room)) : Slice{},
                    "set_decode_base64url");
}
bool encode_hex_(const Place& place, const Call&, const Slice* args, Value& value) {
    value = encode_hex(place.arena, args[0]);
    return true;
}
bool decode_hex_(const Place& place, const Call&, const Slice* args, Value& value) {
    return set_text(place, value, decode_hex(place.arena, args[0]), "set_decode_hex");
}

// ---- digests ----

bool digest_hex(const Place& place, Slice text, const EVP_MD* kind, Value& value) {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    if (EVP_Digest(text.data(), text.size(), bytes, &size, kind, nullptr) != 1) return false;
    value = encode_hex(place.arena, {reinterpret_cast<char*>(bytes), size});
    return true;
}
bool md5(const Place& place, const Call&, const Slice* args, Value& value) {
    return digest_hex(place, args[0], EVP_md5(), value);
}
bool sha1(const Place& place, const Call&, const Slice* args, Value& value) {
    return digest_hex(place, args[0], EVP_sha1(), value);
}
bool hmac(const Place& place, const Slice* args, const EVP_MD* kind, Value& value) {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    if (!HMAC(kind, args[0].data(), int(args[0].size()),
              reinterpret_cast<const unsigned char*>(args[1].data()), args[1].size(), bytes,
              &size)) {
        return false;
    }
    value = place.arena.copy({reinterpret_cast<char*>(bytes), size});
    return true;
}
bool hmac_sha1(const Place& place, const Call&, const Slice* args, Value& value) {
    return hmac(place, args, EVP_sha1(), value);
}
bool hmac_sha256(const Place& place, const Call&, const Slice* args, Value& value) {
    return hmac(place, args, EVP_sha256(), value);
}

// ---- numbers ----

bool set_number(const Place& place, Value& value, int64_t number) {
    char room[24];
    value = place.arena.copy(core::format_number(number, room));
    return true;
}

// "from" and "to" in either order.
bool read_bounds(const Place& place, const Slice* args, const char* who, int64_t& least,
                 int64_t& most) {
    auto from = core::parse_number(args[0]), to = core::parse_number(args[1]);
    if (!from || !to) {
        LOG(place.log, error, 0, "%s: bad \"%s\" argument: %.*s", who, from ? "to" : "from",
            int(args[from ? 1 : 0].size()), args[from ? 1 : 0].data());
        return false;
    }
    least = int64_t(std::min(*from, *to));
    most = int64_t(std::max(*from, *to));
    return true;
}

bool random(const Place& place, const Call&, const Slice* args, Value& value) {
    int64_t least, most;
    if (!read_bounds(place, args, "set_random", least, most)) return false;
    uint64_t number = 0;
    RAND_bytes(reinterpret_cast<unsigned char*>(&number), sizeof(number));
    return set_number(place, value, least + int64_t(number % (uint64_t(most - least) + 1)));
}

// args: the variable's value, from, to.
bool rotate(const Place& place, const Call&, const Slice* args, Value& value) {
    int64_t least, most;
    if (!read_bounds(place, args + 1, "set_rotate", least, most)) return false;
    const SetMiscConf& conf = place.conf;
    int64_t current = conf.rotated == INT64_MIN ? least - 1 : conf.rotated;
    if (!args[0].empty()) {
        if (auto given = core::parse_number(args[0])) {
            current = int64_t(*given);
        } else {
            log_bad(place, "set_rotate: bad current value", args[0]);
        }
    }
    ++current;
    if (current > most || current < least) current = least;
    conf.rotated = current;
    return set_number(place, value, current);
}

bool random_text(const Place& place, Slice wanted, Slice alphabet, Value& value) {
    constexpr uint64_t bytes_max = 64;
    auto size = core::parse_number(wanted, bytes_max);
    if (!size || *size == 0) {
        LOG(place.log, error, 0, "set_random: bad \"length\" argument: %.*s", int(wanted.size()),
            wanted.data());
        return false;
    }
    unsigned char bytes[bytes_max];
    if (RAND_bytes(bytes, int(*size)) != 1) return false;
    char* text = place.arena.bytes(*size);
    for (size_t i = 0; i < *size; ++i) text[i] = alphabet[bytes[i] % alphabet.size()];
    value = Slice(text, *size);
    return true;
}
bool random_alphanum(const Place& place, const Call&, const Slice* args, Value& value) {
    return random_text(place, args[0],
                       "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", value);
}
bool random_lcalpha(const Place& place, const Call&, const Slice* args, Value& value) {
    return random_text(place, args[0], "abcdefghijklmnopqrstuvwxyz", value);
}

// ---- time ----

bool format_time(const Place& place, Slice format, bool local, Value& value) {
    if (format.empty()) {
        value = Slice("", 0);
        return true;
    }
    constexpr size_t bytes_max = 256;
    time_t now = core::Clock::seconds();
    tm parts{};
    if (local) {
        localtime_r(&now, &parts);
    } else {
        gmtime_r(&now, &parts);
    }
    char room[bytes_max];
    size_t size = strftime(room, sizeof(room), place.arena.copy_z(format).data(), &parts);
    if (size == 0) return false;
    value = place.arena.copy({room, size});
    return true;
}
bool local_today(const Place& place, const Call&, const Slice*, Value& value) {
    return format_time(place, "%Y-%m-%d", true, value);
}
bool formatted_gmt_time(const Place& place, const Call&, const Slice* args, Value& value) {
    return format_time(place, args[0], false, value);
}
bool formatted_local_time(const Place& place, const Call&, const Slice* args, Value& value) {
    return format_time(place, args[0], true, value);
}

// ---- upstream lists ----

const std::vector<std::string>* find_list(Slice name) {
    // While directives are bound the http level may not have a conf yet.
    const void* conf = Configuration::current().http_level()->get(module_set_misc.index);
    if (!conf) return nullptr;
    const auto& lists = static_cast<const SetMiscConf*>(conf)->upstream_lists;
    auto at = lists.find(std::string(name));
    return at == lists.end() ? nullptr : &at->second;
}

// args: list, key.
bool hashed_upstream(const Place& place, const Call& call, const Slice* args, Value& value) {
    const auto* list = call.upstreams ? call.upstreams : find_list(args[0]);
    if (!list) {
        LOG(place.log, error, 0, "set_hashed_upstream: upstream list \"%.*s\" not defined yet",
            int(args[0].size()), args[0].data());
        return false;
    }
    if (list->empty()) {
        value = Slice("", 0);
        return true;
    }
    uint64_t hash = 0;
    for (char c : args[1]) hash = hash * 31 + uint8_t(core::lower(c));
    value = Slice((*list)[uint32_t(hash) % uint32_t(list->size())]);
    return true;
}

// ---- directives ----

struct Known {
    const char* name;
    Function function;
    bool takes_own_value;      // the variable's value is the first argument, or the only one
};

constexpr Known known[] = {
    {"set_unescape_uri", unescape_uri, false},
    {"set_escape_uri", escape_uri_, false},
    {"set_quote_sql_str", quote_sql_, false},
    {"set_quote_pgsql_str", quote_pgsql_, false},
    {"set_quote_json_str", quote_json_, false},
    {"set_if_empty", if_empty, true},
    {"set_encode_base32", encode_base32_, false},
    {"set_decode_base32", decode_base32_, false},
    {"set_encode_base64", encode_base64_, false},
    {"set_decode_base64", decode_base64_, false},
    {"set_encode_base64url", encode_base64url, false},
    {"set_decode_base64url", decode_base64url, false},
    {"set_encode_hex", encode_hex_, false},
    {"set_decode_hex", decode_hex_, false},
    {"set_md5", md5, false},
    {"set_sha1", sha1, false},
    {"set_hmac_sha1", hmac_sha1, false},
    {"set_hmac_sha256", hmac_sha256, false},
    {"set_random", random, false},
    {"set_rotate", rotate, true},
    {"set_secure_random_alphanum", random_alphanum, false},
    {"set_secure_random_lcalpha", random_lcalpha, false},
    {"set_local_today", local_today, false},
    {"set_formatted_gmt_time", formatted_gmt_time, false},
    {"set_formatted_local_time", formatted_local_time, false},
    {"set_hashed_upstream", hashed_upstream, false},
};

// ---- for scripts ----

bool takes_one(Function function) {
    for (Function several : {hmac_sha1, hmac_sha256, random, rotate, hashed_upstream, if_empty}) {
        if (function == several) return false;
    }
    return true;
}

const void* find_function(Slice name) {
    for (const Known& entry : known) {
        if (name == entry.name && takes_one(entry.function)) return &entry;
    }
    return nullptr;
}

bool call_function(core::Arena& arena, const core::LogContext& log, Request* request,
                   const void* function, Slice argument, Value& value) {
    static const auto& no_call = *new Call;
    static const auto& no_conf = *new SetMiscConf;
    Place place{arena, log, request ? request->conf<SetMiscConf>(module_set_misc) : no_conf};
    return static_cast<const Known*>(function)->function(place, no_call, &argument, value);
}

constexpr TextFunctions functions_of_one_text{find_function, call_function};
[[maybe_unused]] const bool functions_known = [] {
    text_functions = &functions_of_one_text;
    return true;
}();

bool run_call(Request& request, const void* data, Value& value) {
    const Call& call = *static_cast<const Call*>(data);
    Slice args[Call::arguments_max];
    size_t count = 0;
    for (const ComplexValue& argument : call.arguments) args[count++] = argument.evaluate(request);
    Place place{request.arena, request.log, request.conf<SetMiscConf>(module_set_misc)};
    return call.function(place, call, args, value);
}

Result<void> add_argument(Call& call, Slice text, const Line& line) {
    auto value = ComplexValue::compile(text, line);
    if (!value) return value.take_error();
    call.arguments.push_back(std::move(*value));
    return {};
}

Result<void> add_call(SetMiscConf& conf, const Line& line) {
    const Known* entry = known;
    while (line.name() != entry->name) ++entry;
    auto call = std::make_unique<Call>();
    call->function = entry->function;
    auto name = variable_name(line.arg(0));
    if (!name) return name.take_error();
    bool own = entry->takes_own_value || (line.count() == 1 && entry->function != local_today);
    Result<void> added = own ? add_argument(*call, line.arg(0), line) : Result<void>();
    for (size_t i = 1; added && i < line.count(); ++i) {
        added = add_argument(*call, line.arg(i), line);
    }
    if (!added) return added;
    if (entry->function == hashed_upstream && call->arguments[0].is_constant()) {
        call->upstreams = find_list(line.arg(1));
        if (!call->upstreams) {
            return Error{"set_hashed_upstream: upstream list \"" + std::string(line.arg(1)) +
                         "\" not defined yet"};
        }
    }
    auto step = add_script_step(line, line.arg(0), run_call, call.get());
    if (step) conf.calls.push_back(std::move(call));
    return step;
}

Result<void> set_alphabet(SetMiscConf& conf, const Line& line) {
    if (conf.base32_alphabet.is_set) return Error{"is duplicate"};
    if (line.arg(0).size() != 32) {
        return Error{"\"set_base32_alphabet\" directive takes an alphabet of " +
                     std::to_string(line.arg(0).size()) + " bytes but 32 expected"};
    }
    conf.base32_alphabet.set(std::string(line.arg(0)));
    return {};
}

Result<void> add_upstream_list(SetMiscConf& conf, const Line& line) {
    auto [at, added] = conf.upstream_lists.try_emplace(std::string(line.arg(0)));
    if (!added) {
        return Error{"duplicate upstream list name \"" + std::string(line.arg(0)) + "\""};
    }
    at->second.assign(line.node.args.begin() + 1, line.node.args.end());
    return {};
}

Result<void> merge(SetMiscConf& conf, const SetMiscConf* outer, conf::Binder&) {
    if (outer) conf.base32_alphabet.inherit(outer->base32_alphabet);
    return {};
}

constexpr uint32_t in_any = conf::in_any_http | conf::in_server_if | conf::in_location_if;
using conf::takes;

constexpr conf::Directive directives[] = {
    {"set_unescape_uri", in_any, takes(1, 2), conf::call<add_call>},
    {"set_escape_uri", in_any, takes(1, 2), conf::call<add_call>},
    {"set_quote_sql_str", in_any, takes(1, 2), conf::call<add_call>},
    {"set_quote_pgsql_str", in_any, takes(1, 2), conf::call<add_call>},
    {"set_quote_json_str", in_any, takes(1, 2), conf::call<add_call>},
    {"set_if_empty", in_any, takes(2), conf::call<add_call>},
    {"set_encode_base32", in_any, takes(1, 2), conf::call<add_call>},
    {"set_decode_base32", in_any, takes(1, 2), conf::call<add_call>},
    {"set_encode_base64", in_any, takes(1, 2), conf::call<add_call>},
    {"set_decode_base64", in_any, takes(1, 2), conf::call<add_call>},
    {"set_encode_base64url", in_any, takes(1, 2), conf::call<add_call>},
    {"set_decode_base64url", in_any, takes(1, 2), conf::call<add_call>},
    {"set_encode_hex", in_any, takes(1, 2), conf::call<add_call>},
    {"set_decode_hex", in_any, takes(1, 2), conf::call<add_call>},
    {"set_md5", in_any, takes(1, 2), conf::call<add_call>},
    {"set_sha1", in_any, takes(1, 2), conf::call<add_call>},
    {"set_hmac_sha1", in_any, takes(3), conf::call<add_call>},
    {"set_hmac_sha256", in_any, takes(3), conf::call<add_call>},
    {"set_random", in_any, takes(3), conf::call<add_call>},
    {"set_rotate", in_any, takes(3), conf::call<add_call>},
    {"set_secure_random_alphanum", in_any, takes(1, 2), conf::call<add_call>},
    {"set_secure_random_lcalpha", in_any, takes(1, 2), conf::call<add_call>},
    {"set_local_today", in_any, takes(1), conf::call<add_call>},
    {"set_formatted_gmt_time", in_any, takes(2), conf::call<add_call>},
    {"set_formatted_local_time", in_any, takes(2), conf::call<add_call>},
    {"set_hashed_upstream", in_any, takes(3), conf::call<add_call>},
    {"upstream_list", conf::in_http, conf::takes_at_least(2), conf::call<add_upstream_list>},
    {"set_base32_padding", in_any, conf::takes_flag(), conf::field<&SetMiscConf::base32_padding>},
    {"set_misc_base32_padding", in_any, conf::takes_flag(),
     conf::field<&SetMiscConf::base32_padding>},
    {"set_base32_alphabet", in_any, takes(1), conf::call<set_alphabet>},
};

const Module module_set_misc{
    .name = "http_set_misc",
    .conf = conf_with_merge<SetMiscConf, merge>,
    .directives = directives,
};
REGISTER_MODULE(module_set_misc);

}  // namespace

}  // namespace server
