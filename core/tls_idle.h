// Idle TLS connections in a fraction of their memory. OpenSSL's object of a connection (SSL, 7.6 KB
// in 3.0) is for the most part zeros and room for what is not under way. So these objects lie in
// pages of their own, and one that nobody has used for a while is copied without its zeros, its
// pages are given back, and its next use puts it back where it was: same bytes, same address.
//
// TlsHandle is how TlsSession holds its SSL: whoever goes through it never sees the difference.
// Whoever keeps a plain pointer must pin() the handle, or ask awake() each time. Knows nothing of
// what is in an SSL.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/list.h"

struct ssl_ctx_st;
struct ssl_st;

namespace core {

class TlsHandle : public ListNode {
  public:
    TlsHandle() = default;
    ~TlsHandle();                        // frees the SSL

    // SSL_new(), in pages of its own if there is a TlsIdle. False: out of memory.
    bool make(ssl_ctx_st* context);

    operator ssl_st*() const {
        if (aside_) [[unlikely]] bring_back();
        used_ = true;
        return ssl_;
    }
    // It stays where it is from now on.
    void pin() {
        if (aside_) bring_back();
        unlink();
    }
    bool aside() const { return aside_ != nullptr; }
    // The same pointer, fit for use until the loop's turn ends; null stays null.
    static ssl_st* awake(ssl_st* shared);

  private:
    friend class TlsIdle;
    void bring_back() const;

    ssl_st* ssl_ = nullptr;
    mutable void* aside_ = nullptr;      // the copy
    mutable bool used_ = false;          // since TlsIdle last looked
};

// While one exists handles are put aside. At most one, on the loop's thread.
class TlsIdle {
  public:
    // At the very start of the program, before OpenSSL has asked for memory. False: it has, and
    // nothing will ever be put aside.
    static bool install();

    // Looks every `period_ms`: what has not been used since the last look is put aside.
    explicit TlsIdle(int64_t period_ms);
    ~TlsIdle();
    TlsIdle(const TlsIdle&) = delete;
    TlsIdle& operator=(const TlsIdle&) = delete;

    void look();

  private:
    friend class TlsHandle;
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace core
