// Certificates with their chain, and keys, as PEM text: what tls_context.cpp and whoever names
// certificates while the server runs read alike. Never asks for a password at a terminal.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/slice.h"

struct bio_st;
struct evp_pkey_st;
struct x509_st;

namespace core {

struct PemFree {
    void operator()(bio_st* source) const;
    void operator()(x509_st* certificate) const;
};
using PemSource = std::unique_ptr<bio_st, PemFree>;
using CertificatePtr = std::unique_ptr<x509_st, PemFree>;

// Null: OpenSSL's queue says why. The text must outlive the source.
PemSource open_pem_file(const std::string& path);
PemSource open_pem_text(Slice text);

// Each returns null, or the name of the call that failed; OpenSSL's queue says why.
// A certificate and those that follow it, up to the end: the owner's first. Empty when that one
// cannot be read.
const char* read_pem_chain(bio_st* from, std::vector<CertificatePtr>& to);
// With the first password that opens it; the caller frees the key.
const char* read_pem_key(bio_st* from, const std::vector<std::string>& passwords,
                         evp_pkey_st*& to);

}  // namespace core
