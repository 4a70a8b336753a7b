// BodyRelay: takes an upstream's response body to the client. While the client keeps up, pieces go
// straight on. When it does not, they are held in memory up to a limit, then in a temporary file up
// to another, and past that the upstream is no longer read. Owned by upstream/session.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "server/http/request.h"
#include "server/upstream/settings.h"

namespace server {

class BodyRelay {
  public:
    // Called from the loop.
    class Owner {
      public:
        virtual void on_relay_room() = 0;      // what want_room() asked for
        virtual void on_relay_done() = 0;      // after finish(): everything is with the client
      protected:
        ~Owner() = default;
    };

    BodyRelay(Request& request, const UpstreamSettings& settings, Owner& owner);
    ~BodyRelay();

    // Whether to hold back what the client does not take now, or to leave it with the upstream.
    void set_buffering(bool on) { buffering_ = on; }
    // Also keeps the whole body in the file (proxy_store).
    void keep_all() { keep_all_ = true; }

    // False: broken (logged), the response is to be cut.
    bool send(core::Chain&& piece);
    // No more should be given now; want_room() tells when that has changed.
    bool blocked() const;
    void want_room();
    // The body ends with this. True: all of it is on its way; else on_relay_done() follows.
    bool finish(core::Chain&& last);
    int64_t bytes() const { return bytes_; }
    int file_fd() const { return file_ ? file_->fd : -1; }
    core::Slice file_path() const { return file_path_; }
    bool open_file();                          // for an empty body that is to be stored

  private:
    void pass_on();
    bool hold(core::Chain&& piece);
    bool write_file(core::Chain& piece);
    int64_t in_file() const { return file_end_ - file_sent_; }
    bool empty() const { return held_bytes_ == 0 && in_file() == 0; }
    void wait();

    Request& request_;
    const UpstreamSettings& settings_;
    Owner& owner_;
    Request::Drain drain_;
    core::Chain held_;
    int64_t held_bytes_ = 0, held_max_ = 0;
    core::OpenFile* file_ = nullptr;
    core::Slice file_path_;
    int64_t file_end_ = 0, file_sent_ = 0;
    int64_t bytes_ = 0;
    bool buffering_ = true;
    bool keep_all_ = false;
    bool waiting_ = false;
    bool room_wanted_ = false;
    bool finishing_ = false;
};

// A file nobody else can read, below the folder a *_temp_path names. -1: logged.
int create_temp_file(Request& request, const conf::TempPath& folder, const char* default_name,
                     core::Slice& path);

}  // namespace server
