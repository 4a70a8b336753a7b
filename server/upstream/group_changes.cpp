// Changes of a group's servers at run time: by a script (ngx.upstream.set_peers) or the control
// socket. What is said in one process reaches the others as bytes in memory that all see, with a
// version that each request compares.
#include <algorithm>
#include <cstring>

#include "core/shm.h"
#include "server/upstream/group_changes.h"

namespace server {

namespace {

// A list of servers as bytes, between workers.
std::string encode(const std::vector<PeerSpec>& specs) {
    std::string text;
    auto put = [&](const void* bytes, size_t size) {
        text.append(static_cast<const char*>(bytes), size);
    };
    auto put_text = [&](const std::string& what) {
        uint32_t size = uint32_t(what.size());
        put(&size, sizeof size);
        put(what.data(), size);
    };
    for (const PeerSpec& spec : specs) {
        put_text(spec.server);
        put_text(spec.route);
        put(&spec.address, sizeof spec.address);
        int64_t numbers[] = {spec.weight,         spec.max_conns,     spec.max_fails,
                             spec.fail_timeout_s, spec.slow_start_ms, spec.backup,
                             spec.down,           spec.drain};
        put(numbers, sizeof numbers);
    }
    return text;
}

std::vector<PeerSpec> decode(core::Slice text) {
    std::vector<PeerSpec> specs;
    auto get = [&](void* to, size_t size) {
        std::memcpy(to, text.data(), size);
        text.remove_prefix(size);
    };
    auto get_text = [&](std::string& to) {
        uint32_t size;
        get(&size, sizeof size);
        to = text.substr(0, size);
        text.remove_prefix(size);
    };
    while (!text.empty()) {
        PeerSpec spec;
        get_text(spec.server);
        get_text(spec.route);
        get(static_cast<void*>(&spec.address), sizeof spec.address);
        int64_t numbers[8];
        get(numbers, sizeof numbers);
        spec.weight = int(numbers[0]);
        spec.max_conns = int(numbers[1]);
        spec.max_fails = int(numbers[2]);
        spec.fail_timeout_s = numbers[3];
        spec.slow_start_ms = numbers[4];
        spec.backup = numbers[5];
        spec.down = numbers[6];
        spec.drain = numbers[7];
        specs.push_back(std::move(spec));
    }
    return specs;
}

}  // namespace

UpstreamGroup::Replacement::~Replacement() {
    if (text_) upstream_groups().updates->free(text_);
    if (!reserve_) return;
    PeerLock lock(group_.store);
    group_.store.drop(reserve_);
}

bool UpstreamGroup::Replacement::reserve() {
    std::string text = encode(specs_);
    group_.identify(specs_);
    text_ = static_cast<char*>(
        upstream_groups().updates->allocate(std::max<size_t>(text.size(), 1)));
    if (!text_) return false;
    std::memcpy(text_, text.data(), text.size());
    text_size_ = text.size();
    if (!group_.zone_) return true;
    PeerLock lock(group_.store);
    reserve_ = group_.store.make(specs_, nullptr, 0);
    return reserve_ != nullptr;
}

void UpstreamGroup::Replacement::commit() {
    GroupShared& shared = *group_.shared_;
    PeerLock lock(group_.store);
    if (reserve_) {
        group_.store.drop(std::exchange(reserve_, nullptr));
        PeerTable* now = group_.current();
        group_.adopt(group_.store.make(specs_, now, now->version + 1));
    }
    core::ShmZone& updates = *upstream_groups().updates;
    core::ShmLock own(updates);
    char* old = std::exchange(shared.text, std::exchange(text_, nullptr));
    shared.text_size = text_size_;
    if (old) updates.free_locked(old);
    shared.replaced.store(true, std::memory_order_release);
    shared.version.fetch_add(1, std::memory_order_release);
}

core::Result<std::unique_ptr<UpstreamGroup::Replacement>> UpstreamGroup::stage(
    std::vector<PeerSpec> specs) {
    auto made = std::make_unique<Replacement>(*this, std::move(specs));
    if (!made->reserve()) return core::Error{"no memory"};
    return made;
}

core::Result<void> UpstreamGroup::replace(std::vector<PeerSpec> specs) {
    auto staged = stage(std::move(specs));
    if (!staged) return staged.take_error();
    (*staged)->commit();
    return {};
}

bool UpstreamGroup::looks_up() const {
    return std::any_of(servers.begin(), servers.end(), [](const ServerLine& line) {
        return line.resolve || (!line.host.empty() && line.addresses.empty());
    });
}

// Names that are looked up at run time are known to the workers, or with a zone to one of them.
void UpstreamGroup::restore(bool first) {
    if (first) {
        core::ShmZone& updates = *upstream_groups().updates;
        core::ShmLock own(updates);
        if (char* old = std::exchange(shared_->text, nullptr)) updates.free_locked(old);
        shared_->text_size = 0;
        shared_->replaced.store(false, std::memory_order_release);
        shared_->version.fetch_add(1, std::memory_order_release);
    }
    if (zone_ && (first ? !looks_up() : !lookups_.empty())) rebuild();
}

// Somebody has changed the servers: the first request that finds out makes the table.
void UpstreamGroup::refresh() {
    core::ShmZone& updates = *upstream_groups().updates;
    std::vector<PeerSpec> specs;
    {
        core::ShmLock lock(updates);
        seen_ = shared_->version.load(std::memory_order_relaxed);
        if (shared_->replaced.load(std::memory_order_relaxed)) {
            specs = decode({shared_->text, shared_->text_size});
            identify(specs);
        } else {
            specs = all_specs();
        }
    }
    if (zone_) return;          // whoever replaced them made the table as well
    adopt(store.make(specs, local_, local_->version + 1));
}

}  // namespace server
