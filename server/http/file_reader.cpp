// Files into memory, in pieces of output_buffers' size and no faster than the client takes them. A
// piece is read here, or by a thread of aio's pool while the loop goes on.
#include "server/http/file_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <functional>

#include "core/threads.h"
#include "server/http/connection.h"
#include "server/http/core_conf.h"
#include "server/http/exchange.h"
#include "server/http/request.h"
#include "server/worker.h"

namespace server {

namespace {

#ifdef O_DIRECT
constexpr int direct_flag = O_DIRECT;
#else
constexpr int direct_flag = 0;
#endif

constexpr size_t page_bytes = 4096;

// Memory that a disk can write to by itself.
struct Piece : core::Owner {
    char* bytes = nullptr;

    static Piece* take(size_t size, size_t alignment) {
        void* room = nullptr;
        if (::posix_memalign(&room, alignment, size) != 0) core::out_of_memory(size);
        core::count_heap_allocation();
        auto* piece = new Piece;
        piece->bytes = static_cast<char*>(room);
        piece->release = [](core::Owner* owner) {
            auto* it = static_cast<Piece*>(owner);
            std::free(it->bytes);
            delete it;
        };
        return piece;
    }
};

// One read. It belongs to whoever runs it: a thread may still be at it when the request is gone.
// Made and destroyed by the loop.
struct Job {
    Job(core::OpenFile* from, Piece* to) : file(from), piece(to) { file->hold(); }
    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;
    ~Job() {
        file->drop();
        piece->drop();
    }

    void run() {
        do {
            got = ::pread(file->fd, piece->bytes, size, from);
        } while (got < 0 && errno == EINTR);
        error = got < 0 ? errno : 0;
    }

    core::OpenFile* file;
    Piece* piece;
    int64_t from = 0;         // rounded down to the alignment
    size_t size = 0;          // rounded up
    size_t skip = 0;          // of what was read: in front of what is wanted
    int64_t wanted = 0;
    ssize_t got = 0;
    int error = 0;
};

// False: no thread can take it, which has been logged.
bool run_in_pool(Request& request, const std::shared_ptr<Job>& job, core::Task& task,
                 std::function<void()> done) {
    const std::string& named = request.core().aio_pool;
    core::ThreadPool* pool =
        request.connection.worker.thread_pool(named.empty() ? "default" : named.c_str());
    if (!pool) return false;
    auto submitted = pool->submit([job] { job->run(); }, std::move(done));
    if (!submitted) {
        LOG(request.log, alert, 0, "%s", submitted.error().what.c_str());
        return false;
    }
    task = std::move(*submitted);
    return true;
}

void log_no_bytes(const Request& request, const Job& job) {
    if (job.got < 0) {
        LOG(request.log, crit, job.error, "pread() failed");
    } else {
        LOG(request.log, alert, 0, "file was truncated while it was read");
    }
}

class FileReader {
  public:
    explicit FileReader(Request& of)
        : request_(of),
          conf_(of.core()),
          pump_([](void* it) { static_cast<FileReader*>(it)->pump(); }, this) {
        drain_.run = [](Request&, void* it) {
            core::Reactor::current().at_end(core::Reactor::work,
                                            static_cast<FileReader*>(it)->pump_);
        };
        drain_.argument = this;
    }

    bool idle() const { return waiting_.empty(); }
    void take(core::Chain& chain) { waiting_.append(std::move(chain)); }
    bool fill(core::Chain& out);

  private:
    void pump();
    bool is_direct(const core::Buffer& file);
    bool in_threads(bool direct) const;
    std::shared_ptr<Job> job_for(const core::Buffer& file, bool direct) const;
    bool submit(const std::shared_ptr<Job>& job);
    void wait_for_client();
    bool use(const Job& job, core::Chain& out);

    Request& request_;
    const CoreConf& conf_;
    core::Chain waiting_;
    Request::Drain drain_;
    core::Deferred pump_;
    core::Task task_;
    int known_fd_ = -1;
    bool known_direct_ = false;
};

bool FileReader::is_direct(const core::Buffer& file) {
    if (conf_.directio->count == INT64_MAX) return false;
    if (known_fd_ != file.fd()) {
        known_fd_ = file.fd();
        known_direct_ = (::fcntl(known_fd_, F_GETFL) & direct_flag) != 0;
    }
    return known_direct_;
}

// aio on means the kernel's own asynchronous reads in nginx, which exist for directio alone.
bool FileReader::in_threads(bool direct) const {
    return conf_.aio == AioMode::threads || (conf_.aio == AioMode::on && direct);
}

std::shared_ptr<Job> FileReader::job_for(const core::Buffer& file, bool direct) const {
    int64_t unit = direct ? int64_t(std::bit_ceil(uint64_t(conf_.directio_alignment->count))) : 1;
    int64_t room = std::max<int64_t>(conf_.output_buffers->bytes, unit);
    room -= room % unit;
    auto* piece = Piece::take(size_t(room), size_t(std::max<int64_t>(unit, page_bytes)));
    auto job = std::make_shared<Job>(static_cast<core::OpenFile*>(file.owner), piece);
    job->from = file.file_begin - file.file_begin % unit;
    job->skip = size_t(file.file_begin - job->from);
    job->wanted = std::min<int64_t>(file.size(), room - int64_t(job->skip));
    int64_t end = file.file_begin + job->wanted;
    job->size = size_t((end - job->from + unit - 1) / unit * unit);
    return job;
}

// False: no thread can take it.
bool FileReader::submit(const std::shared_ptr<Job>& job) {
    return run_in_pool(request_, job, task_, [this, job] {
        task_ = {};
        if (request_.output == Request::Output::broken) return waiting_.clear();
        core::Chain out;
        if (use(*job, out) && fill(out)) request_.send_on(std::move(out));
    });
}

// What was read goes on. False: nothing came, and the response is cut.
bool FileReader::use(const Job& job, core::Chain& out) {
    core::Buffer& file = *waiting_.head();
    int64_t got = std::min<int64_t>(job.got - int64_t(job.skip), job.wanted);
    if (got <= 0) {
        log_no_bytes(request_, job);
        waiting_.clear();
        request_.cut();
        return false;
    }
    job.piece->hold();
    core::Buffer& piece = out.add({job.piece->bytes + job.skip, size_t(got)}, job.piece);
    file.file_begin += got;
    if (file.size() > 0) return true;
    piece.flags |= file.flags & (core::Buffer::last | core::Buffer::flush);
    core::Chain::release(waiting_.pop());
    return true;
}

// Moves to `out` what can go on now. False: the response is cut.
bool FileReader::fill(core::Chain& out) {
    int64_t most = conf_.output_buffers->bytes * conf_.output_buffers->count;
    int64_t read = 0;
    while (!waiting_.empty() && !task_.pending()) {
        core::Buffer* head = waiting_.head();
        bool direct = head->is_file() && is_direct(*head);
        bool threads = in_threads(direct);
        if (!head->is_file() || !(direct || threads || !conf_.sendfile)) {
            core::Chain one;
            one.push_front(waiting_.pop());
            out.append(std::move(one));
            continue;
        }
        if (read + request_.exchange->pending_bytes() >= most) {
            wait_for_client();
            break;
        }
        auto job = job_for(*head, direct);
        if (threads && submit(job)) break;
        job->run();
        read += job->wanted;
        if (!use(*job, out)) return false;
    }
    return true;
}

void FileReader::wait_for_client() {
    if (!drain_.linked()) request_.on_drained(drain_);
}

void FileReader::pump() {
    if (request_.output == Request::Output::broken) return waiting_.clear();
    core::Chain out;
    if (fill(out)) request_.send_on(std::move(out));
}

// The producer of a body whose bytes some filter wants to see. Ends by resuming the request.
class FileFeeder {
  public:
    FileFeeder(Request& of, core::OpenFile& from, int64_t bytes)
        : request_(of), file_(from), end_(bytes) {
        file_.hold();
        drain_.run = [](Request&, void* it) { static_cast<FileFeeder*>(it)->next(); };
        drain_.argument = this;
    }
    ~FileFeeder() { file_.drop(); }

    void next() {
        if (request_.output == Request::Output::broken || at_ >= end_) {
            return request_.resume(Verdict::finish());
        }
        if (request_.output_blocked()) return request_.on_drained(drain_);
        // Whole pages: the descriptor may be one for directio.
        int64_t room = std::max<int64_t>(request_.core().output_buffers->bytes, 1);
        room = (room + int64_t(page_bytes) - 1) / int64_t(page_bytes) * int64_t(page_bytes);
        auto job = std::make_shared<Job>(&file_, Piece::take(size_t(room), page_bytes));
        job->from = at_;
        job->wanted = std::min(room, end_ - at_);
        job->size = size_t(room);
        if (run_in_pool(request_, job, task_, [this, job] { use(*job); })) return;
        job->run();
        use(*job);
    }

  private:
    void use(const Job& job) {
        task_ = {};
        if (job.got <= 0) {
            log_no_bytes(request_, job);
            request_.cut();
            return request_.resume(Verdict::finish());
        }
        int64_t got = std::min<int64_t>(job.got, job.wanted);
        at_ += got;
        core::Chain piece;
        job.piece->hold();
        core::Buffer& buffer = piece.add({job.piece->bytes, size_t(got)}, job.piece);
        if (at_ >= end_) buffer.flags |= core::Buffer::last;
        request_.send(std::move(piece));
        next();
    }

    Request& request_;
    core::OpenFile& file_;
    int64_t at_ = 0;
    const int64_t end_;
    Request::Drain drain_;
    core::Task task_;
};

bool has_file(const core::Chain& chain) {
    for (const core::Buffer* at = chain.head(); at; at = at->next) {
        if (at->is_file()) return true;
    }
    return false;
}

}  // namespace

bool reads_files(const void* it) {
    const auto& conf = *static_cast<const CoreConf*>(it);
    return conf.aio == AioMode::threads || conf.directio->count != INT64_MAX || !conf.sendfile;
}

// A subrequest's files are read when they reach the client's response.
Verdict want_file_reading(Request& request) {
    if (!request.parent && !request.header_only) request.want_body(FilterSlot::file_read);
    return Verdict::pass();
}

Verdict read_files(Request& request, core::Chain& chain) {
    auto* reader = request.state<FileReader>(http_core);
    if ((!reader || reader->idle()) && !has_file(chain)) return Verdict::pass();
    if (!reader) {
        reader = request.arena.make<FileReader>(request);
        request.set_state(http_core, reader);
    }
    reader->take(chain);
    if (!reader->fill(chain)) return Verdict::reject(500);
    return Verdict::pass();
}

bool wants_feeding(const Request& request) {
    return request.core().aio == AioMode::threads && request.filter_need_in_memory &&
           request.body_filters != 0;
}

Verdict feed_file(Request& request, core::OpenFile& file, int64_t bytes) {
    auto* feeder = request.arena.make<FileFeeder>(request, file, bytes);
    // Not from inside the handler: it may end the request.
    auto* start = request.arena.make<core::Deferred>(
        [](void* it) { static_cast<FileFeeder*>(it)->next(); }, feeder);
    core::Reactor::current().at_end(core::Reactor::work, *start);
    return Verdict::suspend();
}

}  // namespace server
