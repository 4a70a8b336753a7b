// The resolver against a DNS server of our own in the same loop.
#include "core/resolver.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <thread>

#include "core/clock.h"
#include "core/dns_reply.h"

namespace {

using namespace core;

std::string number16(unsigned value) { return {char(value >> 8), char(value)}; }
std::string number32(unsigned value) { return number16(value >> 16) + number16(value & 0xffff); }

std::string wire_name(const std::string& name) {
    std::string wire;
    for (size_t at = 0; at < name.size();) {
        size_t dot = std::min(name.find('.', at), name.size());
        wire += char(dot - at) + name.substr(at, dot - at);
        at = dot + 1;
    }
    return wire + '\0';
}

struct Record {
    int type;
    unsigned ttl;
    std::string data;
    std::string owner = std::string("\xc0\x0c", 2);   // the question's name
};

Record a(const char* ip, unsigned ttl = 60) {
    in_addr address;
    inet_pton(AF_INET, ip, &address);
    return {dns_type_a, ttl, std::string(reinterpret_cast<char*>(&address), 4)};
}
Record aaaa(const char* ip, unsigned ttl = 60) {
    in6_addr address;
    inet_pton(AF_INET6, ip, &address);
    return {dns_type_aaaa, ttl, std::string(reinterpret_cast<char*>(&address), 16)};
}

// Answers what it was told to; counts the questions.
struct FakeDns final : IoHandler {
    enum class Habit { normal, silent, wrong_id, truncated, garbage };

    Fd udp, tcp;
    Watch watch, tcp_watch;
    std::map<std::pair<std::string, int>, std::vector<Record>> records;
    std::map<std::string, int> codes;
    std::map<std::string, std::string> raw;     // whole replies behind the id
    std::vector<std::string> questions;
    Habit habit = Habit::normal;
    int tcp_answers = 0;

    struct TcpSide final : IoHandler {
        FakeDns& dns;
        explicit TcpSide(FakeDns& owner) : dns(owner) {}
        void on_io(uint8_t) override { dns.serve_tcp(); }
    } tcp_side{*this};

    static Address loopback() {
        Address at;
        Address::parse_ip("127.0.0.1", at);
        return at;
    }
    explicit FakeDns(const Address& at = loopback()) {
        while (!tcp.valid()) {   // a port that is free for both
            udp = std::move(*listen_on(at, {.type = SOCK_DGRAM}));
            if (auto both = listen_on(local_address(udp.get()), {})) tcp = std::move(*both);
        }
        EXPECT_TRUE(watch.start(udp.get(), *this, Watch::level_read));
        EXPECT_TRUE(tcp_watch.start(tcp.get(), tcp_side, Watch::level_read));
    }
    std::string address() const { return local_address(udp.get()).text(); }

    std::string answer(const std::string& question, bool allow_truncation) {
        std::string name;
        size_t at = 12;
        while (question[at]) {
            if (!name.empty()) name += '.';
            name += question.substr(at + 1, size_t(question[at]));
            at += size_t(question[at]) + 1;
        }
        int type = question[at + 1] << 8 | uint8_t(question[at + 2]);
        questions.push_back(name + "/" + std::to_string(type));
        std::string id = question.substr(0, 2);
        if (raw.count(name)) return id + raw[name];
        if (habit == Habit::garbage) return id + "garbage";
        if (habit == Habit::wrong_id) id[0] = char(~id[0]);
        bool cut = habit == Habit::truncated && allow_truncation;
        auto found = records.find({name, type});
        size_t count = cut || found == records.end() ? 0 : found->second.size();
        int code = codes.count(name) ? codes[name] : 0;
        std::string reply = id + char(cut ? 0x83 : 0x81) + char(0x80 | code) + number16(1) +
                            number16(unsigned(count)) + number32(0) +
                            question.substr(12, at + 5 - 12);
        for (size_t i = 0; i < count; ++i) {
            const Record& it = found->second[i];
            reply += it.owner + number16(unsigned(it.type)) + number16(1) + number32(it.ttl) +
                     number16(unsigned(it.data.size())) + it.data;
        }
        return reply;
    }

    void on_io(uint8_t) override {
        char room[2000];
        sockaddr_storage from;
        socklen_t size = sizeof from;
        ssize_t got;
        while ((got = recvfrom(udp.get(), room, sizeof room, MSG_DONTWAIT,
                               reinterpret_cast<sockaddr*>(&from), &size)) > 0) {
            std::string reply = answer({room, size_t(got)}, true);
            if (habit == Habit::silent) continue;
            sendto(udp.get(), reply.data(), reply.size(), 0, reinterpret_cast<sockaddr*>(&from),
                   size);
        }
    }

    void serve_tcp() {   // blocking: c-ares sends the question with the connection
        int fd = accept(tcp.get(), nullptr, nullptr);
        if (fd < 0) return;
        std::thread([this, fd] {
            char room[2000];
            for (;;) {
                if (recv(fd, room, 2, MSG_WAITALL) != 2) break;
                size_t size = size_t(uint8_t(room[0]) << 8 | uint8_t(room[1]));
                if (recv(fd, room, size, MSG_WAITALL) != ssize_t(size)) break;
                std::string reply = answer({room, size}, false);
                reply = number16(unsigned(reply.size())) + reply;
                ++tcp_answers;
                // In two pieces, as a network may.
                (void)!write(fd, reply.data(), 5);
                usleep(2000);
                (void)!write(fd, reply.data() + 5, reply.size() - 5);
            }
            close(fd);
        }).detach();
    }
};

struct ResolverTest : testing::Test {
    std::unique_ptr<FakeDns> dns;
    Resolver::Options options;
    std::shared_ptr<Resolver> resolver;

    void SetUp() override {
        ASSERT_TRUE(Reactor::open());
        dns = std::make_unique<FakeDns>();
        options.servers = {dns->address()};
        options.hosts_path = "";
        options.try_timeout_ms = 50;
        options.tries = 2;
        make();
    }
    void TearDown() override {
        resolver.reset();
        dns.reset();
        Reactor::current().turn(0);
        Reactor::close();
    }
    void make() { resolver = *Resolver::create(options); }
    template <class F>
    bool run_until(F over, int ms = 3000) {
        int64_t end = Clock::monotonic_ms() + ms;
        while (!over() && Clock::monotonic_ms() < end) Reactor::current().turn(5);
        return over();
    }
    Resolution ask(const std::string& name, ResolveKind kind = ResolveKind::addresses,
                   int64_t timeout_ms = 2000) {
        Resolution result;
        bool over = false, inside = true;
        auto query = resolver->resolve(name, [&](const Resolution& found) {
            EXPECT_FALSE(inside);
            result = found;
            over = true;
        }, kind, timeout_ms);
        inside = false;
        EXPECT_TRUE(run_until([&] { return over; })) << name;
        return result;
    }
    static std::string addresses(const Resolution& found) {
        std::string all;
        for (const Address& address : found.addresses) all += address.ip_text() + " ";
        return all + found.pointer;
    }
};

TEST_F(ResolverTest, BothFamilies) {
    dns->records[{"x.test", dns_type_a}] = {a("10.0.0.1"), a("10.0.0.2")};
    dns->records[{"x.test", dns_type_aaaa}] = {aaaa("::5")};
    Resolution found = ask("X.test.");
    EXPECT_EQ(addresses(found), "10.0.0.1 10.0.0.2 ::5 ");
    EXPECT_EQ(found.name, "x.test");
    EXPECT_EQ(dns->questions.size(), 2u);
    ask("x.test");
    EXPECT_EQ(dns->questions.size(), 2u);   // from the cache
    ASSERT_TRUE(resolver->find("x.test"));
    EXPECT_FALSE(resolver->find("y.test"));
    options.ipv6 = false;
    make();
    EXPECT_EQ(addresses(ask("x.test")), "10.0.0.1 10.0.0.2 ");
    EXPECT_EQ(dns->questions.size(), 3u);
}

TEST_F(ResolverTest, OneFamilyIsEnough) {
    dns->records[{"x.test", dns_type_aaaa}] = {aaaa("::5")};
    EXPECT_EQ(addresses(ask("x.test")), "::5 ");
}

TEST_F(ResolverTest, LiteralsNeedNoServer) {
    dns->habit = FakeDns::Habit::silent;
    EXPECT_EQ(addresses(ask("127.0.0.7")), "127.0.0.7 ");
    EXPECT_EQ(addresses(ask("[::1]")), "::1 ");
    EXPECT_TRUE(dns->questions.empty());
}

TEST_F(ResolverTest, ErrorsInNginxWords) {
    dns->codes = {{"nx.test", 3}, {"fail.test", 2}, {"no.test", 5}};
    EXPECT_EQ(ask("nx.test").error_text(), "nx.test could not be resolved (3: Host not found)");
    EXPECT_EQ(ask("empty.test").error_text(),
              "empty.test could not be resolved (3: Host not found)");
    EXPECT_EQ(ask("fail.test").error_text(),
              "fail.test could not be resolved (2: Server failure)");
    // c-ares turns to its next server then, and says no more than that all failed.
    EXPECT_EQ(ask("no.test").status, ResolveStatus::server_failure);
    size_t before = dns->questions.size();
    ask("nx.test");
    EXPECT_EQ(dns->questions.size(), before);   // believed for a while
    ask("fail.test");
    EXPECT_GT(dns->questions.size(), before);   // but not this
    dns->habit = FakeDns::Habit::silent;
    Resolution late = ask("slow.test", ResolveKind::addresses, 60);
    EXPECT_EQ(late.error_text(), "slow.test could not be resolved (110: Operation timed out)");
    EXPECT_EQ(ask("slower.test").status, ResolveStatus::timed_out);   // c-ares gives up itself
}

TEST_F(ResolverTest, BadNamesAreNotAskedFor) {
    for (const std::string& name : {std::string(""), std::string("a..b"), std::string(300, 'a'),
                                    std::string("a b"), std::string("a\r\nb"),
                                    std::string(64, 'a')}) {
        EXPECT_EQ(ask(name).status, ResolveStatus::host_not_found) << name;
    }
    EXPECT_TRUE(dns->questions.empty());
}

TEST_F(ResolverTest, QueriesShareALookup) {
    dns->records[{"x.test", dns_type_a}] = {a("10.0.0.1")};
    int answers = 0;
    std::vector<std::unique_ptr<ResolveQuery>> queries;
    for (int i = 0; i < 10; ++i) {
        queries.push_back(resolver->resolve("x.test", [&](const Resolution&) { ++answers; }));
    }
    queries[3].reset();
    EXPECT_TRUE(run_until([&] { return answers == 9; }));
    EXPECT_EQ(dns->questions.size(), 2u);
}

TEST_F(ResolverTest, TtlAndOverride) {
    dns->records[{"x.test", dns_type_a}] = {a("10.0.0.1", 1)};
    Resolution found = ask("x.test");
    EXPECT_LE(found.expires_ms, Clock::monotonic_ms() + 1000);
    options.valid_ms = 30;
    make();
    ask("x.test");
    size_t before = dns->questions.size();
    EXPECT_TRUE(resolver->find("x.test"));
    usleep(40000);
    Clock::update();
    EXPECT_FALSE(resolver->find("x.test"));
    ask("x.test");
    EXPECT_EQ(dns->questions.size(), before + 2);
}

TEST_F(ResolverTest, NotFoundIsBelievedShortlyWhateverTheOverride) {
    options.valid_ms = 3600000;
    make();
    dns->codes["x.test"] = 3;
    Resolution found = ask("x.test");
    EXPECT_EQ(found.status, ResolveStatus::host_not_found);
    EXPECT_LE(found.expires_ms, Clock::monotonic_ms() + Resolver::negative_ms);
    options.valid_ms = 0;
    make();
    ask("x.test");
    EXPECT_FALSE(resolver->find("x.test"));
}

TEST_F(ResolverTest, ARefusingServerIsLeftAtOnceByAllItsQueries) {
    options.servers = {"127.0.0.1:1", dns->address()};   // nobody listens on port 1
    options.try_timeout_ms = 2000;
    make();
    dns->records[{"x.test", dns_type_a}] = {a("10.0.0.1")};
    dns->records[{"x.test", dns_type_aaaa}] = {aaaa("::5")};
    int64_t started_ms = Clock::monotonic_ms();
    EXPECT_EQ(addresses(ask("x.test")), "10.0.0.1 ::5 ");
    EXPECT_LT(Clock::monotonic_ms(), started_ms + 1000);
}

TEST_F(ResolverTest, StaleWhileTheServersAreDown) {
    options.valid_ms = 30;
    make();
    dns->records[{"x.test", dns_type_a}] = {a("10.0.0.1")};
    EXPECT_FALSE(ask("x.test").stale);
    usleep(40000);
    Clock::update();
    dns->habit = FakeDns::Habit::silent;
    Resolution old = ask("x.test");
    EXPECT_TRUE(old.ok());
    EXPECT_TRUE(old.stale);
    EXPECT_EQ(addresses(old), "10.0.0.1 ");
    size_t before = dns->questions.size();
    EXPECT_TRUE(ask("x.test").stale);
    EXPECT_EQ(dns->questions.size(), before);
    dns->habit = FakeDns::Habit::normal;   // "not found" is an answer, though
    dns->codes["y.test"] = 3;
    EXPECT_FALSE(ask("y.test").ok());
}

TEST_F(ResolverTest, Pointer) {
    Address address;
    Address::parse_ip("10.1.2.3", address);
    EXPECT_EQ(pointer_name(address), "3.2.1.10.in-addr.arpa");
    dns->records[{"3.2.1.10.in-addr.arpa", dns_type_ptr}] = {
        {dns_type_ptr, 60, wire_name("Host.Example")}};
    Resolution result;
    auto done = [&](const Resolution& found) { result = found; };
    auto query = resolver->resolve_address(address, done);
    EXPECT_TRUE(run_until([&] { return !result.pointer.empty(); }));
    EXPECT_EQ(result.pointer, "host.example");
    Address::parse_ip("::1", address);
    EXPECT_EQ(pointer_name(address),
              "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa");
}

TEST_F(ResolverTest, BadBytesInNamesAreRefused) {
    for (std::string evil : {std::string("a\r\nX: 1"), std::string("a\0b", 3), std::string("a b"),
                             std::string("a\xff"), std::string("a\\b")}) {
        std::string key = "k" + std::to_string(dns->questions.size()) + ".test";
        dns->records[{key, dns_type_ptr}] = {
            {dns_type_ptr, 60, char(evil.size()) + evil + '\0'}};
        Resolution found = ask(key, ResolveKind::pointer);
        EXPECT_EQ(found.status, ResolveStatus::format_error) << evil;
        EXPECT_TRUE(found.pointer.empty());
        dns->records[{key, dns_type_srv}] = {
            {dns_type_srv, 60, number16(1) + number32(80) + char(evil.size()) + evil + '\0'}};
        EXPECT_EQ(ask(key, ResolveKind::services).status, ResolveStatus::format_error);
    }
}

TEST_F(ResolverTest, Services) {
    auto srv = [](int priority, int weight, int port, const char* target) {
        return Record{dns_type_srv, 60, number16(unsigned(priority)) + number16(unsigned(weight)) +
                                            number16(unsigned(port)) + wire_name(target)};
    };
    dns->records[{"_http._tcp.x.test", dns_type_srv}] = {srv(1, 5, 8080, "one.test"),
                                                         srv(2, 0, 8081, "two.test"),
                                                         srv(2, 0, 8082, "gone.test")};
    dns->records[{"one.test", dns_type_a}] = {a("10.0.0.1", 20)};
    dns->records[{"two.test", dns_type_a}] = {a("10.0.0.2")};
    dns->codes["gone.test"] = 3;
    Resolution found = ask("_http._tcp.x.test", ResolveKind::services);
    ASSERT_TRUE(found.ok()) << found.error_text();
    ASSERT_EQ(found.services.size(), 3u);
    EXPECT_EQ(found.services[0].target, "one.test");
    EXPECT_EQ(found.services[0].weight, 5);
    ASSERT_EQ(found.services[0].addresses.size(), 1u);
    EXPECT_EQ(found.services[0].addresses[0].text(), "10.0.0.1:8080");
    EXPECT_EQ(found.services[1].addresses[0].text(), "10.0.0.2:8081");
    EXPECT_TRUE(found.services[2].addresses.empty());
}

TEST_F(ResolverTest, CanonicalNames) {
    dns->records[{"x.test", dns_type_a}] = {{5, 5, wire_name("real.test")},
                                            {dns_type_a, 60, std::string("\x0a\0\0\x09", 4),
                                             wire_name("real.test")}};
    Resolution found = ask("x.test");
    EXPECT_EQ(addresses(found), "10.0.0.9 ");
    EXPECT_LE(found.expires_ms, Clock::monotonic_ms() + 5000);   // the chain's least TTL
    dns->records[{"loop.test", dns_type_a}] = {{5, 5, wire_name("loop.test")}};
    EXPECT_EQ(ask("loop.test").status, ResolveStatus::host_not_found);
}

TEST_F(ResolverTest, TruncatedRepliesComeByTcp) {
    dns->habit = FakeDns::Habit::truncated;
    for (int i = 1; i < 200; ++i) {
        dns->records[{"x.test", dns_type_a}].push_back(a(("10.0.0." + std::to_string(i)).c_str()));
    }
    options.ipv6 = false;
    options.try_timeout_ms = 1000;
    make();
    EXPECT_EQ(ask("x.test").addresses.size(), 199u);
    EXPECT_EQ(dns->tcp_answers, 1);
}

TEST_F(ResolverTest, HostileReplies) {
    std::string head = std::string("\x81\x80", 2) + number16(1) + number16(1) + number32(0);
    std::string question = wire_name("loop.test") + number16(1) + number16(1);
    dns->raw["loop.test"] = head + question + "\xc0\x1b" + number16(1) + number16(1) +
                            number32(60) + number16(4) + "abcd";   // a pointer to itself
    dns->raw["short.test"] = head.substr(0, 5);
    dns->raw["lies.test"] = std::string("\x81\x80", 2) + number16(1) + number16(9) + number32(0) +
                            wire_name("lies.test") + number16(1) + number16(1) +
                            std::string("\xc0\x0c", 2) + number16(1) + number16(1) + number32(60) +
                            number16(4000) + "abcd";
    for (const char* name : {"loop.test", "short.test", "lies.test"}) {
        Resolution found = ask(name);
        EXPECT_FALSE(found.ok()) << name;
        EXPECT_TRUE(found.addresses.empty());
    }
    dns->habit = FakeDns::Habit::wrong_id;
    dns->records[{"x.test", dns_type_a}] = {a("6.6.6.6")};
    EXPECT_FALSE(ask("x.test").ok());
    dns->habit = FakeDns::Habit::garbage;
    EXPECT_FALSE(ask("y.test").ok());
}

TEST_F(ResolverTest, RepliesAfterTheQueryDied) {
    dns->records[{"x.test", dns_type_a}] = {a("10.0.0.1")};
    bool called = false;
    resolver->resolve("x.test", [&](const Resolution&) { called = true; });   // dies here
    EXPECT_TRUE(run_until([&] { return resolver->find("x.test") != nullptr; }));   // still cached
    EXPECT_FALSE(called);
    auto query = resolver->resolve("y.test", [&](const Resolution&) { called = true; });
    std::weak_ptr<Resolver> life = resolver;
    resolver.reset();
    EXPECT_FALSE(life.expired());   // the query keeps it
    query.reset();
    EXPECT_TRUE(life.expired());
    for (int i = 0; i < 5; ++i) Reactor::current().turn(1);
    EXPECT_FALSE(called);
}

TEST_F(ResolverTest, QueryDestroyedInItsCallback) {
    dns->records[{"x.test", dns_type_a}] = {a("10.0.0.1")};
    std::unique_ptr<ResolveQuery> first, second;
    int called = 0;
    first = resolver->resolve("x.test", [&](const Resolution& found) {
        ++called;
        first.reset();
        second.reset();
        resolver.reset();
        EXPECT_TRUE(found.ok());
    });
    second = resolver->resolve("x.test", [&](const Resolution&) { ++called; });
    EXPECT_TRUE(run_until([&] { return called; }));
    for (int i = 0; i < 5; ++i) Reactor::current().turn(1);
    EXPECT_EQ(called, 1);
}

TEST_F(ResolverTest, HostsFile) {
    std::string path = "/tmp/resty-hosts-" + std::to_string(getpid());
    std::ofstream(path) << "# comment\n127.0.0.9  nine Nine.test # x\n::9\tnine\nrubbish line\n";
    options.hosts_path = path;
    make();
    EXPECT_EQ(addresses(ask("nine")), "127.0.0.9 ::9 ");
    EXPECT_EQ(addresses(ask("NINE.TEST")), "127.0.0.9 ");
    EXPECT_TRUE(dns->questions.empty());
    HostsFile hosts(path);
    ASSERT_TRUE(hosts.find("nine"));
    std::ofstream(path) << "127.0.0.8 eight\n";
    usleep(1050000);
    Clock::update();
    EXPECT_FALSE(hosts.find("nine"));
    EXPECT_TRUE(hosts.find("eight"));
    unlink(path.c_str());
}

TEST_F(ResolverTest, ResolvConfWithSearchDomains) {
    // The file names addresses only, always at port 53: without root nothing is tested here.
    dns.reset();
    Address at;
    Address::parse_ip("127.0.0.254", at);
    at.set_port(53);
    auto probe = listen_on(at, {.type = SOCK_DGRAM});
    if (!probe) GTEST_SKIP() << probe.error().what;
    probe->reset();
    dns = std::make_unique<FakeDns>(at);
    dns->records[{"x.corp.test", dns_type_a}] = {a("10.0.0.1")};
    dns->records[{"far.away.test", dns_type_a}] = {a("10.0.0.2")};
    dns->codes["x.first.test"] = 3;
    std::string path = "/tmp/resty-resolv-" + std::to_string(getpid());
    std::ofstream(path) << "nameserver 127.0.0.254\nsearch first.test corp.test\n";
    options.servers.clear();
    options.ipv6 = false;
    options.resolv_conf_path = path;
    make();
    EXPECT_EQ(addresses(ask("x")), "10.0.0.1 ");
    EXPECT_EQ(dns->questions, (std::vector<std::string>{"x.first.test/1", "x.corp.test/1"}));
    dns->questions.clear();
    EXPECT_EQ(addresses(ask("far.away.test")), "10.0.0.2 ");   // enough dots: as it is, first
    EXPECT_EQ(dns->questions.size(), 1u);
    dns->questions.clear();
    EXPECT_FALSE(ask("x.").ok());   // absolute
    EXPECT_EQ(dns->questions, std::vector<std::string>{"x/1"});
    unlink(path.c_str());
}

TEST_F(ResolverTest, ServerNames) {
    Resolver::Options bad;
    bad.servers = {"no-such-host.invalid"};
    auto made = Resolver::create(bad);
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().what, "host not found in resolver \"no-such-host.invalid\"");
    bad.servers = {"127.0.0.1:99999"};
    EXPECT_EQ(Resolver::create(bad).error().what, "invalid port in resolver \"127.0.0.1:99999\"");
    bad.servers = {"127.0.0.1", "[::1]:5353"};
    auto good = Resolver::create(bad);
    ASSERT_TRUE(good);
    EXPECT_EQ((*good)->options().servers[0], "127.0.0.1:53");
    EXPECT_EQ((*good)->options().servers[1], "[::1]:5353");
    bad.servers = {"localhost:5353"};
    auto named = Resolver::create(bad);
    ASSERT_TRUE(named);
    for (const std::string& server : (*named)->options().servers) {
        EXPECT_TRUE(server == "127.0.0.1:5353" || server == "[::1]:5353") << server;
    }
}

}  // namespace
