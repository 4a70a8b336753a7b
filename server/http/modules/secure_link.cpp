// secure_link: is the address one that we gave out, and still good? $secure_link is empty for a
// wrong hash, "0" for a link whose time is over, "1" else; with secure_link_secret it is the path
// that was protected.
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "core/base64.h"
#include "core/clock.h"
#include "core/text.h"
#include "server/http/request.h"
#include "server/http/variables.h"

namespace server {

namespace {

using core::Slice;

constexpr size_t md5_bytes = 16;
constexpr size_t md5_hex_bytes = 32;

struct Conf {
    conf::Setting<ComplexValue> link;
    conf::Setting<ComplexValue> md5;
    conf::Setting<std::string> secret{""};
};

struct State {
    Slice expires;
};

extern const Module module_secure_link;

struct Md5 {
    unsigned char bytes[EVP_MAX_MD_SIZE];

    static bool of(std::initializer_list<Slice> parts, Md5& to) {
        EVP_MD_CTX* context = EVP_MD_CTX_new();
        if (!context) return false;
        bool good = EVP_DigestInit_ex(context, EVP_md5(), nullptr) == 1;
        for (Slice part : parts) {
            good = good && EVP_DigestUpdate(context, part.data(), part.size()) == 1;
        }
        good = good && EVP_DigestFinal_ex(context, to.bytes, nullptr) == 1;
        EVP_MD_CTX_free(context);
        return good;
    }
    bool is(const char* other) const { return CRYPTO_memcmp(bytes, other, md5_bytes) == 0; }
};

// "/prefix/HASH/path": the path, if HASH is that of it and the secret.
Value protected_path(const Request& request, Slice secret) {
    Slice target = request.head.target;
    if (target.empty()) return Value::none();
    size_t first = target.find('/', 1);
    size_t second = first == Slice::npos ? first : target.find('/', first + 1);
    if (second == Slice::npos) return Value::none();
    Slice hash = target.substr(first + 1, second - first - 1);
    Slice path = target.substr(second + 1);
    if (hash.size() != md5_hex_bytes || path.empty()) return Value::none();
    char given[md5_bytes];
    for (size_t i = 0; i < md5_bytes; ++i) {
        int high = core::hex_value(hash[2 * i]), low = core::hex_value(hash[2 * i + 1]);
        if (high < 0 || low < 0) return Value::none();
        given[i] = char(high << 4 | low);
    }
    Md5 wanted;
    if (!Md5::of({path, secret}, wanted) || !wanted.is(given)) return Value::none();
    return path;
}

Value get_link(Request& request, Slice, uintptr_t) {
    const Conf& conf = request.conf<Conf>(module_secure_link);
    if (!conf.secret->empty()) return protected_path(request, *conf.secret);
    if (!conf.link.is_set || !conf.md5.is_set) return Value::none();
    Slice link = conf.link->evaluate(request);
    size_t comma = link.find(',');
    int64_t expires = 0;
    if (comma != Slice::npos) {
        Slice text = link.substr(comma + 1);
        auto seconds = core::parse_number(text, INT64_MAX);
        if (!seconds || *seconds == 0) return Value::none();
        expires = int64_t(*seconds);
        request.need_state<State>(module_secure_link).expires = text;
        link = link.substr(0, comma);
    }
    constexpr size_t encoded_max = 24;
    char given[core::base64_decoded_bytes_max(encoded_max)];
    if (link.size() > encoded_max) return Value::none();
    char* end = core::decode_base64_into(given, link, true);
    if (!end || size_t(end - given) != md5_bytes) return Value::none();
    Md5 wanted;
    if (!Md5::of({conf.md5->evaluate(request)}, wanted) || !wanted.is(given)) return Value::none();
    return Slice(expires && expires < core::Clock::seconds() ? "0" : "1");
}

Value get_expires(Request& request, Slice, uintptr_t) {
    auto* state = request.state<State>(module_secure_link);
    return state ? Value(state->expires) : Value::none();
}

conf::Result<void> merge(Conf& conf, const Conf*, conf::Binder&) {
    if (!conf.secret->empty() && (conf.link.is_set || conf.md5.is_set)) {
        return conf::Error{"\"secure_link_secret\" cannot be mixed with \"secure_link\" and "
                           "\"secure_link_md5\""};
    }
    return {};
}

constexpr conf::Directive directives[] = {
    {"secure_link", conf::in_any_http, conf::takes(1), conf::field<&Conf::link>},
    {"secure_link_md5", conf::in_any_http, conf::takes(1), conf::field<&Conf::md5>},
    {"secure_link_secret", conf::in_any_http, conf::takes(1), conf::field<&Conf::secret>},
};

constexpr Variable variables[] = {
    {"secure_link", get_link},
    {"secure_link_expires", get_expires, Variable::volatile_},
};

constinit const Module module_secure_link{
    .name = "http_secure_link",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .variables = variables,
    .has_request_state = true,
};
REGISTER_MODULE(module_secure_link);

}  // namespace

}  // namespace server
