// `hotset report`: a self-contained page from a daemon's log.
#include <memory>
#include <span>

#include "profiler/report.h"
#include "runtime/weights/output_file.h"
#include "tools/commands.h"
#include "tools/model_options.h"

namespace hotset {

void add_report_command(CLI::App& app) {
  struct Options {
    std::string log, out;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("report", "Make a page from a log of hotset daemon");
  command->add_option("log", o->log, "the log (JSON lines)")->required();
  command->add_option("-o,--output", o->out, "the page to write")->required();
  command->footer("Example:\n  hotset report hotset.jsonl -o report.html");
  command->callback([o] {
    const std::string page = report_of(read_text(o->log), o->log);
    OutputFile file(o->out);
    file.write(0, std::as_bytes(std::span(page)));
    file.commit();
  });
}

}  // namespace hotset
