// The operator duplet_recurrent of an MXNet extension library: one recurrent layer over the tokens of texts, without
// padding. Built by build.py and loaded by __init__.py beside it.
//
// Inputs: data (T, N, C); with padded=1 the padding (T, N, 1), 1 after a text's end; parameters, packed as MXNet's RNN
// takes them; with states=1 the first h and, for LSTM, c, each (D, N, H).
// Outputs: (T, N, D H), zero on padding; with states=1 the h and c after each text's last token.
#include "recurrent.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include <omp.h>

#include "mxnet/lib_api.h"

using namespace mxnet::ext;
typedef std::unordered_map<std::string, std::string> Attributes;
typedef std::vector<std::vector<unsigned int>> Shapes;

namespace {

// --- memory: kept from call to call, as fresh pages cost more than what is computed in them ---------------------------
constexpr size_t KEPT_BYTES = size_t(512) << 20;  // of memory that is not in use
struct Idle {
  float* memory;
  size_t bytes;
};
std::mutex pool_lock;
std::vector<Idle> idle;
std::unordered_map<float*, size_t> lent;
size_t idle_bytes = 0;

float* take(size_t floats) {
  size_t bytes = 4096;
  while (bytes < floats * sizeof(float)) bytes += bytes / 4096 > 3 ? (bytes / 4 + 63) / 64 * 64 : bytes;
  std::lock_guard<std::mutex> guard(pool_lock);
  for (size_t i = idle.size(); i-- > 0;)
    if (idle[i].bytes == bytes) {
      float* found = idle[i].memory;
      idle.erase(idle.begin() + i);
      idle_bytes -= bytes;
      lent[found] = bytes;
      return found;
    }
  void* made = nullptr;
  if (posix_memalign(&made, 64, bytes)) {  // what waits may be of other sizes
    for (const Idle& other : idle) std::free(other.memory);
    idle.clear(), idle_bytes = 0;
    if (posix_memalign(&made, 64, bytes)) throw std::bad_alloc();
  }
  lent[static_cast<float*>(made)] = bytes;
  return static_cast<float*>(made);
}

void give(float* memory) {
  if (!memory) return;
  std::lock_guard<std::mutex> guard(pool_lock);
  const size_t bytes = lent[memory];
  lent.erase(memory);
  idle.push_back({memory, bytes});
  idle_bytes += bytes;
  while (idle_bytes > KEPT_BYTES) {  // the one that has waited longest
    std::free(idle.front().memory);
    idle_bytes -= idle.front().bytes;
    idle.erase(idle.begin());
  }
}

// --- which instructions -----------------------------------------------------------------------------------------------
// As oneDNN does, so that one setting holds for both: ONEDNN_MAX_CPU_ISA (or DNNL_MAX_CPU_ISA) lowers what is used.
const duplet::Arithmetic* choose() {
  __builtin_cpu_init();
  const char* most = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (!most) most = std::getenv("DNNL_MAX_CPU_ISA");
  const std::string limit = most ? most : "";
  const bool old = limit == "SSE41" || limit == "AVX";
  const bool narrow = old || limit.rfind("AVX2", 0) == 0;
  if (!narrow && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return &duplet::avx512;
  if (!old && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &duplet::avx2;
  return nullptr;
}
// Why products cannot have factors of bfloat16; empty: they can. DUPLET_BF16: the compiler knows the instructions.
std::string no_bfloat16(const duplet::Arithmetic* in_float32) {
#if defined(DUPLET_BF16)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx512bf16")) return "the processor has no AVX512_BF16";
  for (const char* name : {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"})
    if (const char* most = std::getenv(name)) {
      const std::string limit = most;
      if (in_float32 == &duplet::avx512 && limit != "AVX512_CORE" && limit != "AVX512_CORE_VNNI") break;
      return std::string(name) + "=" + limit + " forbids AVX512_BF16";
    }
  return in_float32 == &duplet::avx512 ? "" : "the processor has not all of AVX512";
#else
  return "the compiler that built them knows no AVX512_BF16";
#endif
}

struct Chosen {
  const duplet::Arithmetic* in_float32 = choose();
  std::string no_bfloat16 = ::no_bfloat16(in_float32);
};
const Chosen& chosen() {
  static const Chosen once;
  return once;
}
// Null where the processor cannot.
const duplet::Arithmetic* arithmetic(bool bfloat16) {
#if defined(DUPLET_BF16)
  if (bfloat16) return chosen().no_bfloat16.empty() ? &duplet::avx512_bf16 : nullptr;
#endif
  return bfloat16 ? nullptr : chosen().in_float32;
}

// --- attributes -------------------------------------------------------------------------------------------------------
struct Settings {
  int cell = 0, hidden = 0, directions = 1, padded = 0, states = 0, keep = 0, bfloat16 = 0;
  bool good = false;
  explicit Settings(const Attributes& from) {
    auto number = [&](const char* name) {
      auto found = from.find(name);
      return found == from.end() ? 0 : std::atoi(found->second.c_str());
    };
    auto cell_name = from.find("cell");
    if (cell_name == from.end()) return;
    const char* names[] = {"rnn_tanh", "rnn_relu", "gru", "lstm"};
    for (cell = 0; cell < 4 && cell_name->second != names[cell]; cell++) {
    }
    hidden = number("hidden"), directions = number("directions"), padded = number("padded");
    states = number("states"), keep = number("keep"), bfloat16 = number("bfloat16");
    good = cell < 4 && hidden > 0 && (directions == 1 || directions == 2);
  }
  int cells() const { return cell == duplet::LSTM ? 2 : 1; }
  int gates() const { return cell == duplet::LSTM ? 4 : cell == duplet::GRU ? 3 : 1; }
  int inputs() const { return 2 + padded + (states ? cells() : 0); }
  int outputs() const { return 1 + (states ? cells() : 0); }
  uint64_t parameters(uint64_t inputs) const { return uint64_t(directions) * gates() * hidden * (inputs + hidden + 2); }
};

MXReturnValue refuse(const std::string& why) {
  MX_ERROR_MSG << "duplet_recurrent: " << why;
  return MX_FAIL;
}

MXReturnValue parse(const Attributes& from, int* inputs, int* outputs) {
  const Settings s(from);
  if (!s.good) return refuse("cell, hidden and directions are needed");
  *inputs = s.inputs(), *outputs = s.outputs();
  return MX_SUCCESS;
}

MXReturnValue types(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
  for (int& type : *in) {
    if (type != kFloat32 && type != kUNSET) return refuse("all arrays must be float32");
    type = kFloat32;
  }
  for (int& type : *out) type = kFloat32;
  return MX_SUCCESS;
}

MXReturnValue shapes(const Attributes& from, Shapes* in, Shapes* out) {
  const Settings s(from);
  const auto& x = in->at(0);
  if (x.size() != 3) return refuse("data must be (T, N, C)");
  const unsigned T = x[0], N = x[1], D = s.directions, H = s.hidden;
  if (s.padded) {
    uint64_t size = 1;
    for (unsigned n : in->at(1)) size *= n;
    if (size != uint64_t(T) * N) return refuse("the padding must be (T, N, 1)");
  }
  const auto& parameters = in->at(1 + s.padded);
  if (parameters.size() != 1 || parameters[0] != s.parameters(x[2])) return refuse("the parameters are of another size");
  const std::vector<unsigned> state = {D, N, H};
  for (int i = 2 + s.padded; i < s.inputs(); i++)
    if (in->at(i) != state) return refuse("states must be (directions, N, hidden)");
  out->at(0) = {T, N, D * H};
  for (int i = 1; i < s.outputs(); i++) out->at(i) = state;
  return MX_SUCCESS;
}

// --- the operator -----------------------------------------------------------------------------------------------------
class Recurrent : public CustomStatefulOp {
 public:
  explicit Recurrent(const Attributes& from) : s_(from) {}
  ~Recurrent() override { drop(); }

  MXReturnValue Forward(std::vector<MXTensor>* in, std::vector<MXTensor>* out, const OpResource&) override {
    return within_memory([&] { forward(in, out); });
  }

  // in: the gradients of the outputs, then the inputs, then the outputs; out: the gradients of the inputs.
  MXReturnValue Backward(std::vector<MXTensor>* in, std::vector<MXTensor>* out, const OpResource&) override {
    if (!gates_[0]) return refuse("backward was called for a forward without keep=1");
    return within_memory([&] { backward(in, out); });
  }

 private:
  template <typename Work>
  MXReturnValue within_memory(Work work) {
    try {
      work();
      return MX_SUCCESS;
    } catch (const std::bad_alloc&) {
      drop();
      return refuse("memory allocation failed");
    }
  }

  void forward(std::vector<MXTensor>* in, std::vector<MXTensor>* out) {
    drop();
    duplet::Layer l = layer(in->data());
    l.y = out->at(0).data<float>();
    if (s_.states) {
      l.hn = out->at(1).data<float>();
      if (s_.cells() == 2) l.cn = out->at(2).data<float>();
    }
    const auto* a = arithmetic(s_.bfloat16);
    for (int d = 0; d < s_.directions; d++) {
      gates_[d] = take(l.rows * a->gates_width(s_.cell, s_.hidden) + 16);
      if (s_.cell == duplet::LSTM) cells_[d] = take(l.rows * a->cells_width(s_.cell, s_.hidden) + 16);
      l.gates[d] = gates_[d], l.cells[d] = cells_[d];
    }
    a->forward(l);
    if (!s_.keep) drop();
  }

  void backward(std::vector<MXTensor>* in, std::vector<MXTensor>* out) {
    const int outputs = s_.outputs(), inputs = s_.inputs();
    duplet::Layer l = layer(in->data() + outputs);
    l.y = in->at(outputs + inputs).data<float>();
    l.dy = in->at(0).data<float>();
    int at = 0;
    l.dx = out->at(at++).data<float>();
    if (s_.padded) {
      std::memset(out->at(at).data<float>(), 0, out->at(at).size() * sizeof(float));
      at++;
    }
    l.dparameters = out->at(at++).data<float>();
    if (s_.states) {
      l.dhn = in->at(1).data<float>();
      l.dh0 = out->at(at++).data<float>();
      if (s_.cells() == 2) l.dcn = in->at(2).data<float>(), l.dc0 = out->at(at++).data<float>();
    }
    for (int d = 0; d < s_.directions; d++) l.gates[d] = gates_[d], l.cells[d] = cells_[d];
    arithmetic(s_.bfloat16)->backward(l);
  }

  // What forward and backward share; `in` begins at the data.
  duplet::Layer layer(MXTensor* in) {
    duplet::Layer l;
    std::memset(&l, 0, sizeof l);
    l.cell = s_.cell, l.directions = s_.directions, l.hidden = s_.hidden;
    l.threads = std::max(1, omp_get_max_threads());
    l.steps = in[0].shape[0], l.texts = in[0].shape[1], l.inputs = in[0].shape[2];
    l.x = in[0].data<float>();
    const float* padding = s_.padded ? in[1].data<float>() : nullptr;
    l.parameters = in[1 + s_.padded].data<float>();
    if (s_.states) {
      l.h0 = in[2 + s_.padded].data<float>();
      if (s_.cells() == 2) l.c0 = in[3 + s_.padded].data<float>();
    }
    arrange(l, padding);
    l.take = take, l.give = give;
    return l;
  }

  void arrange(duplet::Layer& l, const float* padding) {
    std::vector<int64_t> lengths(l.texts, l.steps);
    for (int64_t i = 0; padding && i < l.texts; i++)
      for (int64_t& n = lengths[i] = 0; n < l.steps && padding[n * l.texts + i] == 0.f;) n++;
    l.longest = 0;
    for (int64_t n : lengths) l.longest = std::max(l.longest, n);
    counts_.assign(l.longest + 1, 0), offsets_.assign(l.longest + 1, 0);
    for (int64_t n : lengths)
      if (n) counts_[n - 1]++;
    for (int64_t t = l.longest - 1; t-- > 0;) counts_[t] += counts_[t + 1];
    for (int64_t t = 0; t < l.longest; t++) offsets_[t + 1] = offsets_[t] + counts_[t];
    order_.resize(l.texts);
    std::vector<std::vector<int64_t>> of_length(l.longest + 1);
    for (int64_t i = 0; i < l.texts; i++) of_length[lengths[i]].push_back(i);
    int64_t place = 0;
    for (int64_t n = l.longest; n >= 0; n--)
      for (int64_t i : of_length[n]) order_[place++] = i;
    l.rows = offsets_[l.longest];
    source_.resize(l.rows);
    for (int64_t t = 0; t < l.longest; t++)
      for (int64_t i = 0; i < counts_[t]; i++) source_[offsets_[t] + i] = t * l.texts + order_[i];
    l.counts = counts_.data(), l.offsets = offsets_.data(), l.order = order_.data(), l.source = source_.data();
  }

  void drop() {
    for (int d = 0; d < 2; d++) {
      give(gates_[d]), give(cells_[d]);
      gates_[d] = cells_[d] = nullptr;
    }
  }

  Settings s_;
  std::vector<int64_t> counts_, offsets_, order_, source_;
  float *gates_[2] = {}, *cells_[2] = {};
};

MXReturnValue create(const Attributes& from, const MXContext&, const Shapes&, const std::vector<int>,
                     CustomStatefulOp** made) {
  const bool bfloat16 = Settings(from).bfloat16;
  if (!arithmetic(bfloat16)) return refuse(bfloat16 ? chosen().no_bfloat16 : "this processor has no AVX2");
  *made = CustomStatefulOp::create<Recurrent>(from);
  (*made)->ignore_warn = true;
  return MX_SUCCESS;
}

}  // namespace

REGISTER_OP(duplet_recurrent).setParseAttrs(parse).setInferType(types).setInferShape(shapes).setCreateOpState(create, "cpu");

extern "C" MXReturnValue initialize(int) { return MX_SUCCESS; }

// The instruction set in use, or null where the processor has none that is needed: asked before the library is loaded
// into MXNet.
extern "C" const char* duplet_instruction_set() { return chosen().in_float32 ? chosen().in_float32->name : nullptr; }

// Why factors of products cannot be bfloat16; empty: they can.
extern "C" const char* duplet_no_bfloat16() { return chosen().no_bfloat16.c_str(); }
