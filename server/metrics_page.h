// MetricsPage: all metrics as one text, made in pieces so that whoever sends it can see to other
// things in between: JSON, or Prometheus' text format (version 0.0.4). Called by the status module.
// Each table is taken down as a whole when its turn has come, then written row by row.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "core/json_writer.h"
#include "server/metrics.h"

namespace server {

class MetricsPage {
  public:
    enum class Format : uint8_t { json, prometheus };

    using Tables = std::vector<const MetricTable*>;

    // `tables` outlives the page.
    explicit MetricsPage(Format format, const Tables& tables = metric_tables())
        : format_(format), tables_(tables) {}

    // Appends the next piece, of about `series` values; false: that was the last one.
    bool write(std::string& to, size_t series);

    static const char* content_type(Format format);

  private:
    bool next_table();
    bool write_json();
    void write_json_row(size_t row);
    bool write_text(std::string& to);
    void begin_metric(std::string& to);
    size_t write_text_row(std::string& to, size_t row);

    const Format format_;
    const Tables& tables_;
    size_t table_ = 0;                       // the next to be taken down
    std::unique_ptr<MetricRows> rows_;       // of the one being written
    size_t row_ = 0;
    size_t column_ = 0, column_end_ = 0;     // text format: of the metric being written
    bool begun_ = false;
    size_t written_ = 0;                     // values, in this piece
    core::JsonWriter json_;
};

// For the text format: \, " and line ends of a label's value escaped; bytes that are not UTF-8
// become U+FFFD.
void append_label_value(std::string& to, core::Slice value);

}  // namespace server
