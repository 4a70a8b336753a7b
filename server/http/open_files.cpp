// Opening files on a request's behalf: which cache serves it, by which rules. Called by the modules
// that serve or test files.
#include "server/http/open_files.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/file_cache.h"
#include "server/http/file_reader.h"
#include "server/http/request.h"
#include "server/metrics.h"

namespace server {

namespace {

// The caches of this worker: the automatic one and one per pair of limits in the configuration.
std::vector<std::unique_ptr<FileCache>>& caches() {
    static std::vector<std::unique_ptr<FileCache>> all;
    return all;
}

// ---- metrics ----

enum : size_t { hits, misses, entries, memory };
constexpr MetricColumn metric_columns[] = {
    {"hits", MetricColumn::counter, "resty_file_cache_lookups_total",
     "Files that were asked for, by whether a cache of the worker had them.", "result=\"hit\""},
    {"misses", MetricColumn::counter, "resty_file_cache_lookups_total", nullptr,
     "result=\"miss\""},
    {"entries", MetricColumn::gauge, "resty_file_cache_entries",
     "Files that workers' caches hold."},
    {"memory_bytes", MetricColumn::gauge, "resty_file_cache_memory_bytes",
     "Bytes of files that they keep in memory."},
};
void publish(const MetricTable& table) {
    if (!table.own) return;
    static int64_t published[2] = {};            // hits and misses
    int64_t now[4] = {};
    for (const auto& cache : caches()) {
        now[hits] += cache->hits();
        now[misses] += cache->misses();
        now[entries] += int64_t(cache->entries());
        now[memory] += cache->memory_bytes();
    }
    for (size_t i : {hits, misses}) {
        // Less than before: the caches are new ones.
        core::add(table.own[i], now[i] >= published[i] ? now[i] - published[i] : now[i]);
        published[i] = now[i];
    }
    core::set(table.own[entries], now[entries]);
    core::set(table.own[memory], now[memory]);
}
constinit const MetricTable file_cache{
    .name = "file_cache", .columns = metric_columns, .publish = publish};
REGISTER_METRICS(file_cache);

// Smaller files are read ahead by the kernel's own rules.
constexpr int64_t read_ahead_least = 128 * 1024;

FileCache& cache_for(const FileCacheLimits& limits) {
    for (auto& cache : caches()) {
        if (cache->limits() == limits) return *cache;
    }
    return *caches().emplace_back(std::make_unique<FileCache>(limits));
}

// disable_symlinks: how links in `path` are treated, and how much of it is trusted.
void set_symlinks(Request& request, core::Slice path, FileOpening& how) {
    const CoreConf& core = request.core();
    switch (core.disable_symlinks.value) {
    case DisableSymlinks::off: return;
    case DisableSymlinks::on: how.symlinks = FileOpening::none; break;
    case DisableSymlinks::if_not_owner: how.symlinks = FileOpening::same_owner; break;
    }
    if (core.disable_symlinks_from.empty()) return;
    core::Slice from = core.disable_symlinks_from.evaluate(request);
    if (from.empty() || !path.starts_with(from)) return;
    if (from.size() == path.size()) {
        how.symlinks = FileOpening::any;
    } else if (path[from.size()] == '/') {
        how.trusted = from.size();
    } else if (from.back() == '/') {
        how.trusted = from.size() - 1;
    }
}

}  // namespace

OpenedFile open_file(Request& request, core::Slice path, FileUse use) {
    const CoreConf& core = request.core();
    FileOpening how;
    how.direct_from = core.directio.value.count;
    if (core.read_ahead->count > 0) {
        how.sequential_from = std::max(core.read_ahead->count, read_ahead_least);
    }
    if (core.disable_symlinks.value != DisableSymlinks::off) set_symlinks(request, path, how);
    // A descriptor opened for directio is of no use to others.
    if (how.symlinks != FileOpening::any || how.direct_from != INT64_MAX) {
        return FileCache::open(path, use, how);
    }
    FileCacheLimits limits;
    FileCacheRules rules;
    if (core.open_file_cache_max > 0) {
        limits = {core.open_file_cache_max, core.open_file_cache_inactive.value.count * 1000,
                  false};
        rules = {core.open_file_cache_valid.value.count * 1000,
                 core.open_file_cache_min_uses.value, core.open_file_cache_errors.value};
    }
    return cache_for(limits).find(path, use, how, rules);
}

Verdict reject_unopened(Request& request, const FileInfo& info, core::Slice path) {
    int status = 500;
    core::Level level = core::Level::crit;
    switch (info.error) {
    case ENOENT: case ENOTDIR: case ENAMETOOLONG:
        status = 404;
        level = core::Level::error;
        break;
    case EACCES: case ELOOP: case EMLINK:
        status = 403;
        level = core::Level::error;
        break;
    }
    if ((status != 404 || request.core().log_not_found) && request.log.enabled(level)) {
        core::log_write(request.log, level, info.error, "%s \"%.*s\" failed", info.failed,
                        int(path.size()), path.data());
    }
    return Verdict::reject(status);
}

namespace {

// "\"65f1a2b3-4d2\"": nginx's entity tag, in the request's arena.
core::Slice file_etag(Request& request, int64_t mtime, int64_t size) {
    constexpr char digits[] = "0123456789abcdef";
    constexpr size_t room = 2 * 16 + 3;
    char* to = request.arena.bytes(room);
    char* end = to + room;
    char* at = end;
    auto hex = [&](uint64_t value) {
        do {
            *--at = digits[value & 15];
        } while (value >>= 4);
    };
    *--at = '"';
    hex(uint64_t(size));
    *--at = '-';
    hex(uint64_t(mtime));
    *--at = '"';
    return {at, size_t(end - at)};
}

}  // namespace

Verdict respond_with_file(Request& request, const OpenedFile& file) {
    Response& response = request.response;
    response.status = 200;
    response.content_length = file.size;
    response.last_modified = file.mtime;
    if (request.core().etag) response.etag = file_etag(request, file.mtime, file.size);
    if (!response.content_type_cleared) response.content_type = mime_type(request);
    response.allow_ranges = true;

    Verdict verdict = request.send_header();
    if (verdict.kind == Verdict::rejected) return verdict;
    if (request.header_only || file.size == 0) {
        verdict = request.send_last();
    } else if (!file.bytes().data() && wants_feeding(request)) {
        return feed_file(request, *file.file(), file.size);
    } else {
        core::Chain body;
        file.add_to(body, 0, file.size).flags |= core::Buffer::last;
        verdict = request.send(std::move(body));
    }
    return verdict.kind == Verdict::rejected ? verdict : Verdict::finish();
}

void forget_open_files() { caches().clear(); }

}  // namespace server
