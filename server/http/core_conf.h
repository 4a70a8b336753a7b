// CoreConf: the settings of the http core module that the engine itself reads (http, server and
// location level). Declared in core_module.cpp; every request sees it through request.core().
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "conf/directive.h"
#include "conf/values.h"
#include "core/log.h"
#include "server/http/variables.h"

namespace core {
class Resolver;
class ThreadPool;
}

namespace server {

enum class Satisfy : uint8_t { all, any };
enum class IfModifiedSince : uint8_t { off, exact, before };
enum class Tokens : uint8_t { on, off, build };
enum class LingeringClose : uint8_t { off, on, always };
enum class BodyFile : uint8_t { off, on, clean };
enum class AioMode : uint8_t { off, on, threads };
enum class KeepaliveDisable : uint8_t { none = 1, msie6 = 2, safari = 4 };
enum class DisableSymlinks : uint8_t { off, on, if_not_owner };

struct ErrorPage {
    int status;                     // the one it applies to
    int overwrite = -1;             // =CODE; 0: what the page itself answers ("="); -1: keep
    ComplexValue value;             // URI, @name or URL
    ComplexValue args;              // behind '?'
};

struct MimeTypes {
    struct Hash {
        using is_transparent = void;
        size_t operator()(core::Slice text) const { return std::hash<core::Slice>{}(text); }
    };
    // Lower-case.
    std::unordered_map<std::string, std::string, Hash, std::equal_to<>> by_extension;
};

struct TryFiles {
    struct Entry { ComplexValue name; bool directory = false; };
    std::vector<Entry> entries;     // files to test
    ComplexValue last;              // the last argument: URI, @name…
    int last_status = 0;            // …or =CODE
    bool last_named = false;
    ComplexValue last_args;
};

struct CoreConf {
    using Ms = conf::Milliseconds;
    template <class T> using Setting = conf::Setting<T>;

    // files and addresses
    ComplexValue root;              // made absolute
    bool root_set = false;
    ComplexValue alias;
    bool is_alias = false;
    // How much of the URI an alias stands for: the location's name; npos: all (regex location).
    size_t alias_replaces = 0;
    std::string location_name;      // of the location where the alias was given
    Setting<bool> internal{false};
    std::shared_ptr<MimeTypes> types;
    Setting<std::string> default_type{"text/plain"};
    std::shared_ptr<TryFiles> try_files;       // not inherited
    std::shared_ptr<std::vector<ErrorPage>> error_pages;
    Setting<bool> log_not_found{true};
    Setting<bool> log_subrequest{false};
    Setting<bool> recursive_error_pages{false};
    Setting<Tokens> server_tokens{Tokens::off};
    Setting<bool> server_name_in_redirect{false};
    Setting<bool> port_in_redirect{true};
    Setting<bool> absolute_redirect{true};
    Setting<bool> msie_padding{true};
    Setting<bool> msie_refresh{false};
    Setting<bool> etag{true};
    Setting<IfModifiedSince> if_modified_since{IfModifiedSince::exact};
    Setting<int64_t> max_ranges{INT64_MAX};
    Setting<Satisfy> satisfy{Satisfy::all};
    Setting<Ms> auth_delay{Ms{0}};
    Setting<std::string> post_action{""};
    Setting<std::vector<ComplexValue>> early_hints;

    // sending
    Setting<bool> sendfile{true};
    Setting<conf::Bytes> sendfile_max_chunk{conf::Bytes{2 << 20}};
    Setting<bool> tcp_nopush{false};
    Setting<bool> tcp_nodelay{true};
    Setting<AioMode> aio{AioMode::off};
    std::string aio_pool;           // "default" unless named
    Setting<bool> aio_write{false};
    Setting<conf::Bytes> read_ahead{conf::Bytes{0}};
    Setting<conf::Offset> directio{conf::Offset{INT64_MAX}};
    Setting<conf::Offset> directio_alignment{conf::Offset{512}};
    Setting<ComplexValue> limit_rate;         // bytes a second, as text ("8k")
    Setting<ComplexValue> limit_rate_after;
    Setting<Ms> send_timeout{Ms{60000}};
    Setting<conf::Bytes> send_lowat{conf::Bytes{0}};       // not on the platforms we run on
    // Output waits for the end of the loop turn in any case.
    Setting<conf::Bytes> postpone_output{conf::Bytes{0}};
    Setting<conf::BufferSizes> output_buffers{conf::BufferSizes{2, 32768}};
    Setting<bool> chunked_transfer_encoding{true};
    Setting<bool> reset_timedout_connection{true};

    // receiving
    Setting<conf::Offset> client_max_body_size{conf::Offset{1 << 20}};
    Setting<conf::Bytes> client_body_buffer_size{conf::Bytes{16384}};
    Setting<Ms> client_body_timeout{Ms{60000}};
    Setting<BodyFile> client_body_in_file_only{BodyFile::off};
    Setting<bool> client_body_in_single_buffer{false};
    Setting<conf::TempPath> client_body_temp_path;
    Setting<conf::Bytes> client_header_buffer_size{conf::Bytes{1024}};        // server level
    Setting<conf::BufferSizes> large_client_header_buffers{conf::BufferSizes{4, 8192}};
    Setting<Ms> client_header_timeout{Ms{60000}};
    Setting<bool> ignore_invalid_headers{true};
    Setting<bool> underscores_in_headers{false};
    Setting<bool> merge_slashes{true};
    Setting<int64_t> max_headers{1000};

    // connections
    Setting<Ms> keepalive_timeout{Ms{75000}};
    int64_t keepalive_header_s = -1;          // second argument: "Keep-Alive: timeout="
    Setting<Ms> keepalive_min_timeout{Ms{1000}};
    Setting<Ms> keepalive_time{Ms{3600000}};
    Setting<int64_t> keepalive_requests{1000};
    Setting<conf::Choices<KeepaliveDisable>> keepalive_disable{
        conf::Choices<KeepaliveDisable>(uint32_t(KeepaliveDisable::msie6))};
    Setting<LingeringClose> lingering_close{LingeringClose::on};
    Setting<Ms> lingering_time{Ms{30000}};
    Setting<Ms> lingering_timeout{Ms{5000}};

    // names and looking up
    std::shared_ptr<core::Log> error_log;     // null: the process's
    std::shared_ptr<core::Resolver> resolver; // null: the system's (Worker::resolver())
    Setting<Ms> resolver_timeout{Ms{30000}};
    int open_file_cache_max = 0;              // 0: off
    Setting<conf::Seconds> open_file_cache_inactive{conf::Seconds{60}};
    Setting<conf::Seconds> open_file_cache_valid{conf::Seconds{60}};
    Setting<int64_t> open_file_cache_min_uses{1};
    Setting<bool> open_file_cache_errors{false};
    bool open_file_cache_set = false;
    Setting<DisableSymlinks> disable_symlinks{DisableSymlinks::off};
    ComplexValue disable_symlinks_from;
    // Accepted for compatibility: our tables and pools size themselves.
    Setting<int64_t> types_hash_max_size{1024};
    Setting<int64_t> types_hash_bucket_size{64};
    Setting<int64_t> server_names_hash_max_size{512};
    Setting<int64_t> server_names_hash_bucket_size{64};
    Setting<int64_t> variables_hash_max_size{1024};
    Setting<int64_t> variables_hash_bucket_size{64};
    Setting<conf::Bytes> connection_pool_size{conf::Bytes{512}};
    Setting<conf::Bytes> request_pool_size{conf::Bytes{4096}};
    Setting<bool> open_file_cache_events{false};
    Setting<conf::Bytes> subrequest_output_buffer_size{conf::Bytes{4096}};
};

extern const Module http_core;     // core_module.cpp

// The type for a request's extension by types / default_type.
core::Slice mime_type(const Request& request);
// uri below root or alias, as a path with a NUL behind it; null data, after logging, when it
// cannot be (a NUL byte in it, too long, or it climbs out of an alias).
core::Slice file_path(Request& request, core::Slice uri);

}  // namespace server
