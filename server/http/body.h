// The request body: read on demand into memory and, past client_body_buffer_size, into a temporary
// file; or handed on piece by piece; or discarded.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/slice.h"
#include "server/verdict.h"

namespace server {

class Request;

class RequestBody {
  public:
    enum class State : uint8_t { untouched, reading, complete, discarding, discarded, failed };
    // Called once, from the loop, when the body is complete (passed) or is not to be had (rejected:
    // 400, 408, 413, 499 or 500). It may end the request.
    using Done = void (*)(Request&, void* argument, Verdict);

    struct Options {
        bool in_single_buffer = false;    // client_body_in_single_buffer
        bool in_file_only = false;        // keep it in a file whatever its size
        bool clean_file = true;
    };

    // How long the body is: a number, or chunked (unknown until read).
    int64_t content_length = -1;     // bytes; -1 when chunked or none
    bool chunked = false;
    bool present() const { return chunked || content_length > 0; }
    // `Expect: 100-continue` was asked and nothing was answered yet.
    bool expects_continue = false;

    State state() const { return state_; }
    bool complete() const { return state_ == State::complete; }

    // Starts reading the whole body. passed: it is there already; suspended: `done` will be called;
    // rejected: it is too large (413) or cannot be stored.
    Verdict read(Request&, const Options& options, Done done, void* argument);
    // Forgets the callback (a killed thread); reading itself goes on.
    void forget_callback() { done_ = nullptr; }

    // Streaming: `more` is called whenever bytes have arrived (take them with take_pending()), at
    // the end, or on failure.
    using More = void (*)(Request&, void* argument, Verdict);
    Verdict read_unbuffered(Request&, More more, void* argument);
    core::Chain take_pending();
    bool received_all() const { return received_all_; }
    // It is, or was, handed on in pieces: nothing of it is kept here.
    bool streamed() const { return unbuffered_; }

    // The body's bytes are not wanted: they are read and thrown away so that the connection can be
    // used again, or the connection is closed after the response.
    void discard(Request&);

    // The complete body: its memory parts, in order, or its file.
    const core::Chain& buffers() const { return buffers_; }
    int file_fd() const;                          // -1: in memory
    core::Slice file_path() const { return file_path_; }
    int64_t size() const { return size_; }        // bytes received so far
    // All of it as one slice (reads the file when it is there; copies parts together once).
    core::Slice text(Request&);

    // Replaces the body (Lua's set_body_data, init_body/append_body/finish_body, subrequests).
    void set_text(Request&, core::Slice body);    // body must live as long as the request
    void set_file(Request&, core::Slice path, int fd, bool remove_after);
    void start_new(Request&, int64_t buffer_bytes);
    bool append(Request&, core::Slice bytes);     // false: cannot be stored
    void finish_new(Request&);

    // A body that was made while this one was streamed takes its place; it must outlive this.
    void become(const RequestBody& made);

    // Sees another request's complete body (a subrequest its parent's); the other must outlive it.
    void share(const RequestBody& other);

    // --- for the exchange ---
    // Bytes of the body, decoded. `last`: this was the end.
    void receive(Request&, core::Slice bytes, bool last);
    void fail(Request&, int status);              // the client's fault, or a timeout
    bool wants_bytes() const { return state_ == State::reading || state_ == State::discarding; }

  private:
    bool store(Request&, core::Slice bytes);
    bool store_in_memory(Request&, core::Slice bytes);
    bool write_file(Request&, core::Slice bytes);
    bool spill(Request&);
    void begin(Request&, const Options& options);
    void settle(Request&, Verdict verdict);
    void clear_content();

    State state_ = State::untouched;
    bool received_all_ = false;
    bool unbuffered_ = false;
    Options options_;
    Done done_ = nullptr;
    void* done_argument_ = nullptr;
    core::Chain buffers_;
    core::OpenFile* file_ = nullptr;
    core::Slice file_path_;
    bool remove_file_ = true;
    int fail_status_ = 0;
    int64_t size_ = 0;
    int64_t memory_max_ = 0;
    char* single_ = nullptr;         // one run for a body of known length…
    int64_t single_room_ = 0;        // …and what is left of it

  public:
    ~RequestBody();
};

}  // namespace server
