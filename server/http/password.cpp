// Password forms. Hashes come from OpenSSL and libcrypt; the apr1 form of MD5-crypt is built here.
#include "server/http/password.h"

#include <crypt.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "core/base64.h"

namespace server {

namespace {

using core::Slice;

bool equal(Slice a, Slice b) {
    return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

class Digest {
  public:
    explicit Digest(const EVP_MD* kind) : context_(EVP_MD_CTX_new()) {
        usable_ = context_ && EVP_DigestInit_ex(context_, kind, nullptr) == 1;
    }
    ~Digest() { EVP_MD_CTX_free(context_); }
    Digest(const Digest&) = delete;
    void add(Slice text) {
        usable_ = usable_ && EVP_DigestUpdate(context_, text.data(), text.size()) == 1;
    }
    Slice finish() {
        unsigned size = 0;
        usable_ = usable_ && EVP_DigestFinal_ex(context_, bytes_, &size) == 1;
        return {reinterpret_cast<char*>(bytes_), usable_ ? size : 0};
    }

  private:
    EVP_MD_CTX* context_;
    bool usable_;
    unsigned char bytes_[EVP_MAX_MD_SIZE];
};

// {SHA}: base64 of SHA-1; {SSHA}: base64 of SHA-1 over password and salt, then the salt.
PasswordCheck check_sha(Slice password, Slice encoded, bool salted) {
    constexpr size_t digest_bytes = 20;
    std::string decoded(core::base64_decoded_bytes_max(encoded.size()) + 1, '\0');
    char* end = core::decode_base64_into(decoded.data(), encoded);
    if (!end) return PasswordCheck::unusable;
    decoded.resize(size_t(end - decoded.data()));
    if (decoded.size() < digest_bytes || (!salted && decoded.size() != digest_bytes)) {
        return PasswordCheck::unusable;
    }
    Digest digest(EVP_sha1());
    digest.add(password);
    digest.add(Slice(decoded).substr(digest_bytes));
    bool same = equal(digest.finish(), Slice(decoded).substr(0, digest_bytes));
    return same ? PasswordCheck::right : PasswordCheck::wrong;
}

void append_64(std::string& to, uint32_t value, int digits) {
    static constexpr char alphabet[] =
        "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    for (; digits > 0; --digits, value >>= 6) to += alphabet[value & 63];
}

// MD5-crypt with the magic "$apr1$": 1000 rounds mix password, salt and digest by their number.
std::string md5_crypt(Slice password, Slice salt) {
    Digest inner(EVP_md5());
    inner.add(password);
    inner.add(salt);
    inner.add(password);
    std::string mix(inner.finish());
    if (mix.size() != 16) return {};
    Digest outer(EVP_md5());
    outer.add(password);
    outer.add("$apr1$");
    outer.add(salt);
    for (size_t left = password.size(); left > 0; left -= std::min<size_t>(left, 16)) {
        outer.add(Slice(mix).substr(0, std::min<size_t>(left, 16)));
    }
    for (size_t bits = password.size(); bits; bits >>= 1) {
        outer.add(bits & 1 ? Slice("\0", 1) : password.substr(0, 1));
    }
    std::string digest(outer.finish());
    for (int round = 0; round < 1000; ++round) {
        Digest next(EVP_md5());
        next.add(round & 1 ? password : Slice(digest));
        if (round % 3) next.add(salt);
        if (round % 7) next.add(password);
        next.add(round & 1 ? Slice(digest) : password);
        digest = next.finish();
        if (digest.size() != 16) return {};
    }
    std::string text = "$apr1$" + std::string(salt) + "$";
    auto byte = [&](int i) { return uint32_t(uint8_t(digest[size_t(i)])); };
    constexpr int groups[][3] = {{0, 6, 12}, {1, 7, 13}, {2, 8, 14}, {3, 9, 15}, {4, 10, 5}};
    for (const auto& group : groups) {
        append_64(text, byte(group[0]) << 16 | byte(group[1]) << 8 | byte(group[2]), 4);
    }
    append_64(text, byte(11), 2);
    return text;
}

PasswordCheck check_apr1(Slice password, Slice stored) {
    constexpr size_t salt_bytes_max = 8;
    Slice salt = stored.substr(6);
    salt = salt.substr(0, std::min(salt.find('$'), salt_bytes_max));
    std::string computed = md5_crypt(password, salt);
    if (computed.empty()) return PasswordCheck::unusable;
    return equal(computed, stored) ? PasswordCheck::right : PasswordCheck::wrong;
}

PasswordCheck check_system(Slice password, Slice stored) {
    static thread_local crypt_data data;
    const char* computed = crypt_r(std::string(password).c_str(), std::string(stored).c_str(),
                                   &data);
    // libcrypt answers "*0" or "*1" for settings that it does not take.
    if (!computed || computed[0] == '*') return PasswordCheck::unusable;
    return equal(computed, stored) ? PasswordCheck::right : PasswordCheck::wrong;
}

}  // namespace

PasswordCheck check_password(Slice password, Slice stored) {
    if (stored.starts_with("$apr1$")) return check_apr1(password, stored);
    if (stored.starts_with("{PLAIN}")) {
        return equal(password, stored.substr(7)) ? PasswordCheck::right : PasswordCheck::wrong;
    }
    if (stored.starts_with("{SSHA}")) return check_sha(password, stored.substr(6), true);
    if (stored.starts_with("{SHA}")) return check_sha(password, stored.substr(5), false);
    return check_system(password, stored);
}

}  // namespace server
