// One end of a pipe to a child process: reading by pattern and writing, as far as it goes without
// waiting. lua/api/pipe.cpp makes light threads wait for the rest. Knows no Lua.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "core/reactor.h"
#include "core/slice.h"
#include "core/socket.h"

namespace lua {

class PipeStream : public core::IoHandler {
  public:
    enum class State : uint8_t { done, again, failed };
    enum class Failure : uint8_t { none, closed, system, timeout, aborted };

    // Told when the end is ready; whoever waits sets itself here and takes itself out.
    class Waiter {
      public:
        virtual void go_on() = 0;        // readiness
        virtual void give_up(Failure why) = 0;

      protected:
        ~Waiter() = default;
    };

    PipeStream() = default;
    PipeStream(const PipeStream&) = delete;
    PipeStream& operator=(const PipeStream&) = delete;
    virtual ~PipeStream() = default;

    void open(core::Fd fd) { fd_ = std::move(fd); }
    bool is_open() const { return fd_.valid(); }
    void close();                        // a waiter is not told
    // Readiness is reported from now on. False: the loop refuses.
    bool watch();
    // As far as it goes at once.
    virtual State advance() = 0;
    State fail(Failure why) {
        failure = why;
        return State::failed;
    }
    std::string failure_text() const;

    Waiter* waiter = nullptr;
    Failure failure = Failure::none;     // of the operation that came last

  protected:
    State fail_with_errno();
    core::Fd fd_;

  private:
    void on_io(uint8_t ready) override;
    core::Watch watch_;
    int error_ = 0;                      // Failure::system
};

class PipeReader final : public PipeStream {
  public:
    enum Until : uint8_t { all, bytes, line, any };      // upstream's numbers

    void set_buffer_size(size_t size) { size_ = size; }
    void begin(Until until, size_t count);
    State advance() override;
    // What the operation has read, whether it succeeded or not.
    std::string taken;

  private:
    State take();
    void take_bytes(size_t count);
    State take_line();
    size_t there() const { return last_ - at_; }

    std::unique_ptr<char[]> buffer_;
    size_t size_ = 0, at_ = 0, last_ = 0;
    size_t wanted_ = 0;
    Until until_ = all;
    bool ended_ = false;                 // the child's end is closed, and all was read
};

class PipeWriter final : public PipeStream {
  public:
    void begin(core::Slice text);        // valid during the first advance()
    State advance() override;
    size_t size() const { return size_; }

  private:
    core::Slice left_;
    std::string kept_;                   // what is left_, once it has to wait
    size_t size_ = 0;
};

}  // namespace lua
