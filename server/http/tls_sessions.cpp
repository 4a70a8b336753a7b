// The shared session cache, and ticket keys.
#include "server/http/tls_sessions.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <span>

#include "core/clock.h"
#include "core/shm.h"

namespace server {

// ---- the shared cache ----

struct TlsSessionCache::Entry {
    Entry* next;                   // in its bucket
    Entry* newer;
    Entry* older;
    int64_t expires_s;             // wall clock
    uint32_t id_bytes;
    uint32_t session_bytes;

    char* id_at() { return reinterpret_cast<char*>(this + 1); }
    core::Slice id() { return {id_at(), id_bytes}; }
    core::Slice session() { return {id_at() + id_bytes, session_bytes}; }
};

struct TlsSessionCache::Root {
    static constexpr size_t buckets = 1024;
    Entry* newest;
    Entry* oldest;
    TicketKey tickets[ticket_key_count];
    Entry* table[buckets];
};

namespace {

constexpr size_t session_bytes_max = 4096;

char zone_tag;

// Session ids are random: their first bytes are as good as a hash.
size_t bucket_of(core::Slice id, size_t buckets) {
    uint32_t bits = 0;
    std::memcpy(&bits, id.data(), std::min(id.size(), sizeof bits));
    return bits % buckets;
}

}  // namespace

void TlsSessionCache::make_root(core::ShmZone& zone) {
    void* room = zone.allocate_locked(sizeof(Root));
    if (room) std::memset(room, 0, sizeof(Root));
    zone.set_root(room);
}

core::Result<void> TlsSessionCache::open() {
    auto zone = core::ShmZone::find_or_create(name_, bytes_, &zone_tag);
    if (!zone) return zone.take_error();
    zone_ = std::move(*zone);
    zone_->on_owner_death([](core::ShmZone& broken) {
        broken.wipe();
        make_root(broken);
    });
    core::ShmLock lock(*zone_);
    if (!zone_->root<Root>()) make_root(*zone_);
    if (!zone_->root<Root>()) return core::Error{"zone \"" + name_ + "\" is too small"};
    return {};
}

TlsSessionCache::Entry** TlsSessionCache::find(Root& root, core::Slice id) {
    Entry** at = &root.table[bucket_of(id, Root::buckets)];
    while (*at && (*at)->id() != id) at = &(*at)->next;
    return at;
}

void TlsSessionCache::drop(Root& root, Entry** at) {
    Entry* entry = *at;
    *at = entry->next;
    (entry->newer ? entry->newer->older : root.newest) = entry->older;
    (entry->older ? entry->older->newer : root.oldest) = entry->newer;
    zone_->free_locked(entry);
}

void TlsSessionCache::put(core::Slice id, core::Slice session, int64_t expires_s) {
    if (session.size() > session_bytes_max || id.empty()) return;
    core::ShmLock lock(*zone_);
    Root& root = *zone_->root<Root>();
    if (Entry** known = find(root, id); *known) drop(root, known);
    size_t size = sizeof(Entry) + id.size() + session.size();
    void* room = zone_->allocate_locked(size);
    for (int i = 0; !room && root.oldest && i < 8; ++i) {
        drop(root, find(root, root.oldest->id()));
        room = zone_->allocate_locked(size);
    }
    if (!room) return;
    auto* entry = static_cast<Entry*>(room);
    *entry = {nullptr, nullptr, root.newest, expires_s, uint32_t(id.size()),
              uint32_t(session.size())};
    std::memcpy(entry->id_at(), id.data(), id.size());
    std::memcpy(entry->id_at() + id.size(), session.data(), session.size());
    (root.newest ? root.newest->newer : root.oldest) = entry;
    root.newest = entry;
    Entry*& bucket = root.table[bucket_of(id, Root::buckets)];
    entry->next = bucket;
    bucket = entry;
}

std::string TlsSessionCache::get(core::Slice id) {
    core::ShmLock lock(*zone_);
    Root& root = *zone_->root<Root>();
    Entry** found = find(root, id);
    if (!*found) return {};
    if ((*found)->expires_s > std::time(nullptr)) return std::string((*found)->session());
    drop(root, found);
    return {};
}

void TlsSessionCache::remove(core::Slice id) {
    core::ShmLock lock(*zone_);
    Root& root = *zone_->root<Root>();
    if (Entry** found = find(root, id); *found) drop(root, found);
}

namespace {

int cache_slot() {
    static const int slot = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
    return slot;
}

TlsSessionCache* cache_of(SSL_CTX* context) {
    return static_cast<TlsSessionCache*>(SSL_CTX_get_ex_data(context, cache_slot()));
}

core::Slice id_of(const SSL_SESSION* session) {
    unsigned size = 0;
    const unsigned char* id = SSL_SESSION_get_id(session, &size);
    return {reinterpret_cast<const char*>(id), size};
}

int keep_session(SSL* ssl, SSL_SESSION* session) {
    TlsSessionCache* cache = cache_of(SSL_get_SSL_CTX(ssl));
    int size = i2d_SSL_SESSION(session, nullptr);
    if (!cache || size <= 0 || size > int(session_bytes_max)) return 0;
    unsigned char room[session_bytes_max];
    unsigned char* at = room;
    i2d_SSL_SESSION(session, &at);
    int64_t expires = int64_t(std::time(nullptr)) + SSL_SESSION_get_timeout(session);
    cache->put(id_of(session), {reinterpret_cast<char*>(room), size_t(size)}, expires);
    return 0;                      // OpenSSL keeps its reference
}

SSL_SESSION* find_session(SSL* ssl, const unsigned char* id, int size, int* copy) {
    *copy = 0;
    TlsSessionCache* cache = cache_of(SSL_get_SSL_CTX(ssl));
    if (!cache) return nullptr;
    std::string der = cache->get({reinterpret_cast<const char*>(id), size_t(size)});
    if (der.empty()) return nullptr;
    auto* at = reinterpret_cast<const unsigned char*>(der.data());
    return d2i_SSL_SESSION(nullptr, &at, long(der.size()));
}

void forget_session(SSL_CTX* context, SSL_SESSION* session) {
    if (TlsSessionCache* cache = cache_of(context)) cache->remove(id_of(session));
}

}  // namespace

void TlsSessionCache::serve(SSL_CTX* context) {
    SSL_CTX_set_ex_data(context, cache_slot(), this);
    SSL_CTX_sess_set_new_cb(context, keep_session);
    SSL_CTX_sess_set_get_cb(context, find_session);
    SSL_CTX_sess_set_remove_cb(context, forget_session);
}

// ---- ticket keys ----

namespace {

void make_key(TicketKey& key) {
    key.key_bytes = 32;
    key.needed_until_s = 0;
    bool made = RAND_bytes(key.name, sizeof key.name) == 1 &&
                RAND_bytes(key.hmac, sizeof key.hmac) == 1 &&
                RAND_bytes(key.aes, sizeof key.aes) == 1;
    if (!made) key.key_bytes = 0;
}

}  // namespace

// The previous key goes when no ticket of its can be of use any more; the current one takes its
// place then.
void TlsSessionCache::ticket_keys(TicketKey (&to)[ticket_key_count], int64_t now_s,
                                  int64_t lifetime_s) {
    core::ShmLock lock(*zone_);
    auto& [current, previous] = zone_->root<Root>()->tickets;
    if (current.key_bytes == 0) {
        make_key(previous);
        make_key(current);
        previous.needed_until_s = now_s + lifetime_s;
    } else if (previous.needed_until_s < now_s) {
        previous = current;
        make_key(current);
    }
    current.needed_until_s = std::max(current.needed_until_s, now_s + lifetime_s);
    to[0] = current;
    to[1] = previous;
}

namespace {

// The keys of one context.
class TicketKeys {
  public:
    TicketKeys(std::vector<TicketKey> from_files, std::shared_ptr<TlsSessionCache> own)
        : from_files_(std::move(from_files)), own_(std::move(own)) {}

    std::span<const TicketKey> now(const SSL_CTX* context) {
        if (!own_) return from_files_;
        int64_t now_s = int64_t(core::Clock::seconds());
        if (now_s != looked_s_) own_->ticket_keys(copy_, now_s, SSL_CTX_get_timeout(context));
        looked_s_ = now_s;
        return copy_;
    }

  private:
    std::vector<TicketKey> from_files_;
    std::shared_ptr<TlsSessionCache> own_;
    int64_t looked_s_ = -1;
    TicketKey copy_[TlsSessionCache::ticket_key_count] = {};
};

int keys_slot() {
    static const int slot = SSL_CTX_get_ex_new_index(
        0, nullptr, nullptr, nullptr,
        [](void*, void* keys, CRYPTO_EX_DATA*, int, long, void*) {
            delete static_cast<TicketKeys*>(keys);
        });
    return slot;
}

bool set_keys(const TicketKey& key, unsigned char* vector, EVP_CIPHER_CTX* cipher,
              EVP_MAC_CTX* mac, bool encrypt) {
    char digest[] = "SHA256";
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY,
                                          const_cast<unsigned char*>(key.hmac), key.key_bytes),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0), OSSL_PARAM_END};
    static EVP_CIPHER* const long_kind = EVP_CIPHER_fetch(nullptr, "AES-256-CBC", nullptr);
    static EVP_CIPHER* const short_kind = EVP_CIPHER_fetch(nullptr, "AES-128-CBC", nullptr);
    const EVP_CIPHER* kind = key.key_bytes == 32 ? long_kind : short_kind;
    return EVP_MAC_CTX_set_params(mac, parameters) == 1 &&
           EVP_CipherInit_ex(cipher, kind, nullptr, key.aes, vector, encrypt) == 1;
}

// OpenSSL's contract: 1 goes on, 2 goes on and makes a new ticket, 0 does without, -1 fails.
int use_ticket(SSL* ssl, unsigned char* name, unsigned char* vector, EVP_CIPHER_CTX* cipher,
               EVP_MAC_CTX* mac, int encrypt) {
    SSL_CTX* context = SSL_get_SSL_CTX(ssl);
    auto* known = static_cast<TicketKeys*>(SSL_CTX_get_ex_data(context, keys_slot()));
    if (!known) return encrypt ? -1 : 0;
    std::span<const TicketKey> keys = known->now(context);
    if (encrypt) {
        const TicketKey& key = keys.front();
        if (key.key_bytes == 0 || RAND_bytes(vector, 16) != 1) return -1;
        if (!set_keys(key, vector, cipher, mac, true)) return -1;
        std::memcpy(name, key.name, sizeof key.name);
        return 1;
    }
    for (const TicketKey& key : keys) {
        if (std::memcmp(name, key.name, sizeof key.name) != 0) continue;
        if (!set_keys(key, vector, cipher, mac, false)) return -1;
        bool newest = &key == &keys.front() && SSL_version(ssl) != TLS1_3_VERSION;
        return newest ? 1 : 2;
    }
    return 0;
}

core::Result<TicketKey> read_key(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return core::Error{"cannot open \"" + path + "\""};
    std::string bytes{std::istreambuf_iterator<char>(file), {}};
    if (bytes.size() != 48 && bytes.size() != 80) {
        return core::Error{"\"" + path + "\" must be 48 or 80 bytes"};
    }
    TicketKey key{};
    key.key_bytes = bytes.size() == 48 ? 16 : 32;
    std::memcpy(key.name, bytes.data(), 16);
    // The short form has the key of AES first, the long one that of HMAC.
    const char* first = bytes.data() + 16;
    std::memcpy(key.key_bytes == 16 ? key.aes : key.hmac, first, key.key_bytes);
    std::memcpy(key.key_bytes == 16 ? key.hmac : key.aes, first + key.key_bytes, key.key_bytes);
    return key;
}

}  // namespace

core::Result<void> use_ticket_keys(SSL_CTX* context, const std::vector<std::string>& paths,
                                   std::shared_ptr<TlsSessionCache> own) {
    std::vector<TicketKey> keys;
    for (const std::string& path : paths) {
        auto key = read_key(path);
        if (!key) return key.take_error();
        keys.push_back(*key);
    }
    if (!keys.empty()) own.reset();
    SSL_CTX_set_ex_data(context, keys_slot(), new TicketKeys(std::move(keys), std::move(own)));
    SSL_CTX_set_tlsext_ticket_key_evp_cb(context, use_ticket);
    return {};
}

}  // namespace server
