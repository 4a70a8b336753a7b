// The resolver's cache, lookups shared by several queries, and the queries' lives.
#include "core/resolver.h"

#include <netdb.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "core/clock.h"
#include "core/dns_channel.h"
#include "core/dns_reply.h"
#include "core/histogram.h"
#include "core/text.h"

namespace core {

namespace {

using Answer = std::shared_ptr<const Resolution>;

constexpr int64_t ttl_ms_max = 86400 * 1000;
// An old answer is given at once for this long after the servers failed, so that not every query
// waits for them again.
constexpr int64_t stale_pause_ms = 5000;
// With an old answer at hand the servers get this long before it stands in.
constexpr int64_t stale_wait_ms = 1000;
constexpr int64_t resolv_conf_look_ms = 5000;
constexpr size_t services_max = 128;

std::string key_of(ResolveKind kind, const std::string& name) {
    return std::string(1, char('0' + int(kind))) + name;
}

bool is_definite(ResolveStatus status) {
    return status == ResolveStatus::ok || status == ResolveStatus::host_not_found;
}

Answer failure(const std::string& name, ResolveStatus status) {
    auto made = std::make_shared<Resolution>();
    made->name = name;
    made->status = status;
    return made;
}

Answer with_addresses(const std::string& name, std::vector<Address> addresses) {
    auto made = std::make_shared<Resolution>();
    made->name = name;
    made->addresses = std::move(addresses);
    made->expires_ms = INT64_MAX;
    return made;
}

// A name server as "address:port"; a host name stands for all its addresses.
Result<void> add_server(std::vector<std::string>& to, const std::string& text) {
    auto target = parse_host_port(text);
    if (!target || target->is_unix || target->host.empty()) {
        return Error{format("%s in resolver \"%s\"",
                            target ? "no host" : target.error().what.c_str(), text.c_str())};
    }
    int port = target->port ? target->port : 53;
    Address address;
    if (Address::parse_ip(target->host, address)) {
        address.set_port(port);
        to.push_back(address.text());
        return {};
    }
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_DGRAM;
    if (::getaddrinfo(target->host.c_str(), nullptr, &hints, &found) != 0 || !found) {
        return Error{format("host not found in resolver \"%s\"", text.c_str())};
    }
    for (addrinfo* one = found; one; one = one->ai_next) {
        std::memcpy(&address.any, one->ai_addr, one->ai_addrlen);
        address.size = one->ai_addrlen;
        address.set_port(port);
        to.push_back(address.text());
    }
    ::freeaddrinfo(found);
    return {};
}

std::string normalize(Slice name, bool keep_dot) {
    if (name.ends_with('.') && !keep_dot) name.remove_suffix(1);
    return to_lower(name);
}

}  // namespace

// Everything behind Resolver that needs a loop.
struct ResolverCore {
    // One name being asked for; all queries for it wait on the same.
    struct Lookup {
        ResolverCore& core;
        std::string key;
        ResolveKind kind;
        List<ResolveQuery> waiting;
        int pending = 0;
        Resolution building;
        ResolveStatus failed = ResolveStatus::ok;
        int64_t ttl_ms = ttl_ms_max;
        std::vector<Address> late;                 // IPv6, to come behind IPv4
        DnsChannel::Receiver parts[2];
        std::vector<std::unique_ptr<ResolveQuery>> targets;
        Deferred finish;

        Lookup(ResolverCore& owner, std::string its_key, ResolveKind what)
            : core(owner), key(std::move(its_key)), kind(what),
              finish([](void* self) {
                  auto* lookup = static_cast<Lookup*>(self);
                  lookup->core.finish(*lookup);
              }, this) {}

        void receive(int type, ResolveStatus status, const uint8_t* bytes, int size);
        void take(DnsReply&& reply, int type);
        void resolve_targets();
        void part_done() {
            if (--pending == 0) Reactor::current().at_end(Reactor::work, finish);
        }
    };
    struct Entry {
        Answer answer;
        int64_t fresh_until_ms;    // by its TTL; later it is only good in place of an error
    };

    Resolver& owner;
    HostsFile hosts;
    std::unordered_map<std::string, Entry> cache;
    std::unordered_map<std::string, std::unique_ptr<Lookup>> lookups;
    std::unique_ptr<DnsChannel> channel;
    int64_t conf_looked_ms = -1;
    int64_t conf_changed = 0;

    Counter* counters = nullptr;

    explicit ResolverCore(Resolver& resolver)
        : owner(resolver), hosts(resolver.options_.hosts_path) {
        if (Resolver::find_counters_) {
            counters = Resolver::find_counters_(resolver.options_.status_zone);
        }
    }
    void count(Resolver::Count what) {
        if (counters) add(counters[what]);
    }
    void count_result(ResolveStatus status);
    ~ResolverCore() { channel.reset(); }   // before the lookups it would answer to

    // Whether names of this kind are tried below the search domains: then a dot at the end counts.
    bool searches(ResolveKind kind) const {
        return owner.options_.servers.empty() && kind == ResolveKind::addresses;
    }
    Answer find(const std::string& name, ResolveKind kind);
    Answer stale(const std::string& key);
    void start(ResolveQuery& query, const std::string& name, ResolveKind kind, int64_t timeout_ms);
    Lookup& lookup_for(const std::string& key, const std::string& name, ResolveKind kind);
    void ask(Lookup& lookup);
    bool open_channel();
    void finish(Lookup& lookup);
    Answer settle(Lookup& lookup);
    void remember(const std::string& key, Entry entry);
};

Answer ResolverCore::find(const std::string& name, ResolveKind kind) {
    if (kind == ResolveKind::addresses) {
        Address literal;
        if (Address::parse_ip(name, literal)) return with_addresses(name, {literal});
        if (auto known = hosts.find(normalize(name, false))) {
            std::vector<Address> wanted;
            for (const Address& address : *known) {
                bool v4 = address.family() == AF_INET;
                if (v4 ? owner.options_.ipv4 : owner.options_.ipv6) wanted.push_back(address);
            }
            std::stable_partition(wanted.begin(), wanted.end(),
                                  [](const Address& it) { return it.family() == AF_INET; });
            if (!wanted.empty()) return with_addresses(name, std::move(wanted));
        }
    }
    auto found = cache.find(key_of(kind, name));
    if (found == cache.end()) return nullptr;
    return found->second.answer->expires_ms > Clock::monotonic_ms() ? found->second.answer
                                                                    : nullptr;
}

// An old answer for a name whose servers do not answer.
Answer ResolverCore::stale(const std::string& key) {
    auto found = cache.find(key);
    if (found == cache.end() || !found->second.answer->ok()) return nullptr;
    Entry& entry = found->second;
    int64_t now = Clock::monotonic_ms();
    if (entry.fresh_until_ms + Resolver::stale_ms < now) return nullptr;
    if (entry.answer->expires_ms > now) return entry.answer;
    auto again = std::make_shared<Resolution>(*entry.answer);
    again->stale = true;
    again->expires_ms = now + stale_pause_ms;
    entry.answer = again;
    return again;
}

void ResolverCore::start(ResolveQuery& query, const std::string& name, ResolveKind kind,
                         int64_t timeout_ms) {
    query.key_ = key_of(kind, name);
    query.answer_ = find(name, kind);
    if (!query.answer_ && !is_host_name(name)) {
        query.answer_ = failure(name, ResolveStatus::host_not_found);
    }
    if (!query.answer_ && lookups.size() >= Resolver::lookups_max && !lookups.count(query.key_)) {
        query.answer_ = failure(name, ResolveStatus::server_failure);
    }
    if (query.answer_) {
        count(Resolver::cached);
        Reactor::current().at_end(Reactor::work, query.ready_);
        return;
    }
    if (timeout_ms < 0) timeout_ms = owner.options_.timeout_ms;
    auto old = cache.find(query.key_);
    if (old != cache.end() && old->second.answer->ok() &&
        old->second.fresh_until_ms + Resolver::stale_ms > Clock::monotonic_ms()) {
        timeout_ms = std::min(timeout_ms, stale_wait_ms);
    }
    query.timer_.set(timeout_ms);
    lookup_for(query.key_, name, kind).waiting.push_back(query);
}

ResolverCore::Lookup& ResolverCore::lookup_for(const std::string& key, const std::string& name,
                                               ResolveKind kind) {
    auto& slot = lookups[key];
    if (slot) return *slot;
    slot = std::make_unique<Lookup>(*this, key, kind);
    slot->building.name = name;
    Lookup& lookup = *slot;
    count(kind == ResolveKind::services  ? Resolver::services
          : kind == ResolveKind::pointer ? Resolver::pointers
                                         : Resolver::names);
    ask(lookup);
    return lookup;
}

// The channel, made anew when resolv.conf has changed and nothing is under way.
bool ResolverCore::open_channel() {
    int64_t now = Clock::monotonic_ms();
    bool by_file = owner.options_.servers.empty();
    if (by_file && (conf_looked_ms < 0 || now - conf_looked_ms >= resolv_conf_look_ms)) {
        conf_looked_ms = now;
        struct stat status{};
        ::stat(owner.options_.resolv_conf_path.c_str(), &status);
        int64_t changed = int64_t(status.st_mtime) * 1000003 + int64_t(status.st_size);
        if (changed != conf_changed && (!channel || !channel->outstanding())) {
            conf_changed = changed;
            channel.reset();
        }
    }
    if (!channel) {
        if (auto opened = DnsChannel::open(owner.options_)) channel = std::move(*opened);
    }
    return channel != nullptr;
}

void ResolverCore::ask(Lookup& lookup) {
    int types[2], count = 0;
    switch (lookup.kind) {
    case ResolveKind::services: types[count++] = dns_type_srv; break;
    case ResolveKind::pointer: types[count++] = dns_type_ptr; break;
    case ResolveKind::addresses:
        if (owner.options_.ipv4) types[count++] = dns_type_a;
        if (owner.options_.ipv6) types[count++] = dns_type_aaaa;
    }
    lookup.pending = count + 1;   // one for ourselves: replies may come from inside query()
    if (!open_channel()) {
        lookup.failed = ResolveStatus::server_failure;
        lookup.pending = 1;
        count = 0;
    }
    bool search = searches(lookup.kind);
    for (int i = 0; i < count; ++i) {
        lookup.parts[i] = {[](void* to, int type, ResolveStatus status, const uint8_t* bytes,
                              int size) {
                               static_cast<Lookup*>(to)->receive(type, status, bytes, size);
                           },
                           &lookup, types[i]};
        channel->query(lookup.building.name, search, lookup.parts[i]);
    }
    lookup.part_done();
}

void ResolverCore::Lookup::receive(int type, ResolveStatus status, const uint8_t* bytes, int size) {
    DnsReply reply;
    reply.status = status;
    if (status == ResolveStatus::ok) reply = parse_dns_reply(bytes, size, type);
    if (reply.status == ResolveStatus::ok) {
        take(std::move(reply), type);
    } else if (failed == ResolveStatus::ok || is_definite(failed)) {
        failed = reply.status;
    }
    part_done();
}

void ResolverCore::Lookup::take(DnsReply&& reply, int type) {
    ttl_ms = std::min(ttl_ms, std::max<int64_t>(reply.ttl_s, 1) * 1000);
    auto& to = type == dns_type_aaaa ? late : building.addresses;
    to.insert(to.end(), reply.addresses.begin(), reply.addresses.end());
    if (type == dns_type_ptr) building.pointer = std::move(reply.pointer);
    if (type != dns_type_srv) return;
    building.services = std::move(reply.services);
    if (building.services.size() > services_max) building.services.resize(services_max);
    resolve_targets();
}

void ResolverCore::Lookup::resolve_targets() {
    for (size_t i = 0; i < building.services.size(); ++i) {
        ++pending;
        std::unique_ptr<ResolveQuery> query(new ResolveQuery([this, i](const Resolution& found) {
            Resolution::Service& service = building.services[i];
            service.addresses = found.addresses;
            for (Address& address : service.addresses) address.set_port(service.port);
            if (found.expires_ms != INT64_MAX) {
                int64_t left = found.expires_ms - Clock::monotonic_ms();
                ttl_ms = std::min(ttl_ms, std::max<int64_t>(left, 1000));
            }
            part_done();
        }));
        core.start(*query, building.services[i].target, ResolveKind::addresses, -1);
        targets.push_back(std::move(query));
    }
}

void ResolverCore::remember(const std::string& key, Entry entry) {
    if (cache.size() >= Resolver::cached_names_max) {
        int64_t now = Clock::monotonic_ms();
        std::erase_if(cache, [&](auto& it) { return it.second.answer->expires_ms <= now; });
        if (cache.size() >= Resolver::cached_names_max) cache.clear();
    }
    cache.insert_or_assign(key, std::move(entry));
}

void ResolverCore::count_result(ResolveStatus status) {
    switch (status) {
    case ResolveStatus::ok: return count(Resolver::no_error);
    case ResolveStatus::format_error: return count(Resolver::format_errors);
    case ResolveStatus::server_failure: return count(Resolver::server_failures);
    case ResolveStatus::host_not_found: return count(Resolver::not_found);
    case ResolveStatus::unimplemented: return count(Resolver::unimplemented);
    case ResolveStatus::refused: return count(Resolver::refused);
    case ResolveStatus::timed_out: return count(Resolver::timed_out);
    }
    count(Resolver::others);
}

// What a lookup came to: cached when it is an answer, an old one when it is a failure.
Answer ResolverCore::settle(Lookup& lookup) {
    auto result = std::make_shared<Resolution>(std::move(lookup.building));
    auto& addresses = result->addresses;
    addresses.insert(addresses.end(), lookup.late.begin(), lookup.late.end());
    bool any = !addresses.empty() || !result->services.empty() || !result->pointer.empty();
    result->status = any ? ResolveStatus::ok : lookup.failed;
    if (!any && lookup.failed == ResolveStatus::ok) result->status = ResolveStatus::host_not_found;
    count_result(result->status);
    if (!is_definite(result->status)) {
        Answer old = stale(lookup.key);
        return old ? old : result;
    }
    int64_t valid = any ? std::min(lookup.ttl_ms, ttl_ms_max) : Resolver::negative_ms;
    int64_t wanted = owner.options_.valid_ms;
    if (wanted >= 0) valid = any ? wanted : std::min(wanted, valid);
    result->expires_ms = Clock::monotonic_ms() + valid;
    remember(lookup.key, {result, result->expires_ms});
    return result;
}

void ResolverCore::finish(Lookup& lookup) {
    auto keep = owner.shared_from_this();
    auto node = lookups.extract(lookup.key);
    Answer answer = settle(lookup);
    while (ResolveQuery* query = lookup.waiting.pop_front()) {
        query->answer_ = answer;
        query->deliver();
    }
}

ResolveQuery::ResolveQuery(Done done)
    : done_(std::move(done)),
      timer_([](void* self) { static_cast<ResolveQuery*>(self)->expire(); }, this),
      ready_([](void* self) { static_cast<ResolveQuery*>(self)->deliver(); }, this) {}

ResolveQuery::~ResolveQuery() = default;

void ResolveQuery::deliver() {
    timer_.cancel();
    unlink();
    // The query, and with it the resolver, may go from inside `done`.
    Done done = std::move(done_);
    Answer answer = std::move(answer_);
    auto keep = std::move(resolver_);
    done(*answer);
}

void ResolveQuery::expire() {
    if (resolver_) answer_ = resolver_->core_->stale(key_);
    if (!answer_) answer_ = failure(key_.substr(1), ResolveStatus::timed_out);
    deliver();
}

Resolver::Resolver(Options options) : options_(std::move(options)) {}
Resolver::~Resolver() = default;

Result<std::shared_ptr<Resolver>> Resolver::create(Options options) {
    std::vector<std::string> servers;
    for (const std::string& server : options.servers) {
        if (auto added = add_server(servers, server); !added) return added.take_error();
    }
    options.servers = std::move(servers);
    return std::shared_ptr<Resolver>(new Resolver(std::move(options)));
}

std::shared_ptr<const Resolution> Resolver::find(Slice name, ResolveKind kind) {
    if (!core_) core_ = std::make_unique<ResolverCore>(*this);
    return core_->find(normalize(name, core_->searches(kind)), kind);
}

std::unique_ptr<ResolveQuery> Resolver::resolve(Slice name, ResolveQuery::Done done,
                                                ResolveKind kind, int64_t timeout_ms) {
    if (!core_) core_ = std::make_unique<ResolverCore>(*this);
    std::unique_ptr<ResolveQuery> query(new ResolveQuery(std::move(done)));
    query->resolver_ = shared_from_this();
    core_->start(*query, normalize(name, core_->searches(kind)), kind, timeout_ms);
    return query;
}

std::unique_ptr<ResolveQuery> Resolver::resolve_address(const Address& address,
                                                        ResolveQuery::Done done,
                                                        int64_t timeout_ms) {
    return resolve(pointer_name(address), std::move(done), ResolveKind::pointer, timeout_ms);
}

const char* resolve_status_text(ResolveStatus status) {
    switch (status) {
    case ResolveStatus::format_error: return "Format error";
    case ResolveStatus::server_failure: return "Server failure";
    case ResolveStatus::host_not_found: return "Host not found";
    case ResolveStatus::unimplemented: return "Unimplemented";
    case ResolveStatus::refused: return "Operation refused";
    case ResolveStatus::timed_out: return "Operation timed out";
    default: return "Unknown error";
    }
}

std::string Resolution::error_text() const {
    return format("%s could not be resolved (%d: %s)", name.c_str(), int(status),
                  resolve_status_text(status));
}

}  // namespace core
