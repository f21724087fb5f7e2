#include "model.hpp"

#include <vaelib/backend/cpu/bfloat16.hpp>
#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/io/weights_file.hpp>
#include <vaelib/models/vq_networks.hpp>
#include <vaelib/models/vq_vae.hpp>
#include <vaelib/quantizers/recipes.hpp>
#include <vaelib/train/session.hpp>

#include "any_quantizer.hpp"

namespace vqvae {

using namespace vaelib;

namespace {

/// mean (y - x)^2, or weight * mean |y - x|
struct Reconstruction {
  float l1 = 0;
  template <class S, class V>
  auto operator()(S& step, V output, V target) const {
    if (l1 <= 0) return SquaredError{}(step, output, target);
    return map_few(step, ScaleBy{l1}, AbsoluteError{}(step, output, target));
  }
};

using Net = VqVae<VqEncoder, AnyQuantizer, VqDecoder, Reconstruction>;

std::vector<int> numbers_of(const std::string& list) {
  std::vector<int> numbers;
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    const std::string word = list.substr(begin, end - begin);
    if (word.empty() || word.find_first_not_of("0123456789") != std::string::npos || word.size() > 6)
      throw UsageError(text("--levels ", list, ": expected whole numbers separated by commas, found '", word, "'"));
    numbers.push_back(std::stoi(word));
    begin = end + 1;
  }
  return numbers;
}

VectorQuantizerOptions vq_options(const Options& o) {
  VectorQuantizerOptions v;
  v.learning = o.learned_codes ? CodebookLearning::gradient : CodebookLearning::moving_average;
  v.distance = o.distance == "cosine" ? CodeDistance::cosine : CodeDistance::euclidean;
  v.gradient = o.gradient == "rotation" ? GradientEstimator::rotation : GradientEstimator::straight_through;
  v.start = o.start == "uniform" ? CodebookStart::uniform : o.start == "normal" ? CodebookStart::normal : o.start == "data" ? CodebookStart::data : CodebookStart::k_means;
  v.decay = float(o.decay);
  v.commitment = per_epoch(anneal::Linear{.begin = o.commitment_warmup_epochs > 0 ? 0.0f : float(o.commitment), .end = float(o.commitment),
                                          .steps = std::max<std::int64_t>(1, std::int64_t(o.commitment_warmup_epochs))});
  v.spread = float(o.spread);
  v.focus = float(o.focus);
  if (o.temperature > 0) v.temperature = float(o.temperature);
  v.dead = {.below_mean = float(o.dead_below_mean), .below = float(o.dead_below), .lowest = float(o.lowest), .every_steps = o.replace_steps, .every_epochs = o.replace_epochs};
  if (o.grow_from > 0) v.codes_in_use = per_epoch(anneal::Linear{.begin = float(o.grow_from), .end = float(o.codes), .steps = o.grow_epochs});
  return v;
}

template <class Array>
Array all_of(const AnyQuantizer::Vq& one) {
  Array all;
  for (auto& q : all) q = one;
  return all;
}

AnyQuantizer quantizer_of(const Options& o) {
  using Kind = AnyQuantizer::Kind;
  AnyQuantizer q;
  const AnyQuantizer::Vq vq{vq_options(o), {int(o.codes)}};
  const std::string& name = o.quantizer;
  if (name == "vq") {
    q.kind = o.low_width > 0 ? Kind::low_vq : Kind::vq;
    q.vq = q.low_vq.quantizer = vq;
    q.low_vq.in.out = int(o.low_width);
  } else if (name == "fsq") {
    q.kind = Kind::fsq;
    q.fsq.quantizer = FiniteScalar(numbers_of(o.levels));
    q.fsq.in.out = q.fsq.quantizer.width();
    q.fsq.normalise = true;
  } else if (name == "lfq") {
    q.kind = Kind::lfq;
    int bits = int(o.low_width);
    while (o.low_width == 0 && (std::int64_t{1} << bits) < o.codes) ++bits;
    q.lfq.in.out = std::max(1, bits);
    q.lfq.quantizer.options.commitment = float(o.commitment);
    if (o.spread > 0) q.lfq.quantizer.options.spread = float(o.spread);
    if (o.focus > 0) q.lfq.quantizer.options.focus = float(o.focus);
  } else if (name == "simvq") {
    q.kind = Kind::sim_vq;
    q.sim_vq.codes = int(o.codes);
    q.sim_vq.options.commitment = float(o.commitment);
    if (o.gradient == "rotation") q.sim_vq.options.gradient = GradientEstimator::rotation;
  } else if (name == "gumbel") {
    q.kind = Kind::gumbel;
    q.gumbel.codes = int(o.codes);
    if (o.temperature > 0) q.gumbel.options.temperature = float(o.temperature);
  } else {
    const int i = o.depth == 2 ? 0 : o.depth == 4 ? 1 : 2;
    const int first = name == "residual" ? int(Kind::residual2) : name == "product" ? int(Kind::product2) : int(Kind::grouped2);
    q.kind = Kind(first + i);
    q.residual2.levels = all_of<decltype(q.residual2.levels)>(vq);
    q.residual4.levels = all_of<decltype(q.residual4.levels)>(vq);
    q.residual8.levels = all_of<decltype(q.residual8.levels)>(vq);
    q.product2.parts = all_of<decltype(q.product2.parts)>(vq);
    q.product4.parts = all_of<decltype(q.product4.parts)>(vq);
    q.product8.parts = all_of<decltype(q.product8.parts)>(vq);
    q.grouped2.quantizer = q.grouped4.quantizer = q.grouped8.quantizer = vq;
  }
  return q;
}

class NetModel final : public Model {
 public:
  NetModel(Net net, const Options& o) : trainer(std::move(net), Adam{.learning_rate = float(o.lr)}, Cpu(int(o.threads), o.use_amp ? bfloat16_precision : single_precision), o.seed), monitor(trainer.weights()) {}

  long parameters() const override { return trainer.weights().count(); }
  int threads() const override { return trainer.learner.backend.threads(); }
  std::uint64_t steps() const override { return trainer.learner.steps; }
  Shape image() const override { return net().input_shape(); }
  Shape code_shape() const override { return net().code_shape(); }
  int code_count() const override { return net().quantizer.code_count(); }
  int per_vector() const override { return net().quantizer.per_vector(); }

  History fit(const SourceView& data, FitOptions options) override {
    options.callbacks.insert(options.callbacks.begin(), Callback(monitor));
    return trainer.fit(data, options);
  }
  void save(const std::string& path, const Metadata& metadata) const override { vaelib::save(path, trainer.weights(), metadata); }
  void load(const std::string& path) override { vaelib::load(path, trainer.weights()); }

  Codes encode(Pixels images) const override {
    Codes all;
    in_parts(images, [&](auto& step, const Net& m, auto x) {
      const auto q = m.quantize(step, x);
      all.insert(all.end(), q.codes, q.codes + q.vectors * per_vector());
      return q.values;
    });
    return all;
  }
  std::vector<float> latents(Pixels images) const override {
    return in_parts(images, [](auto& step, const Net& m, auto x) { return m.quantize(step, x).values; });
  }
  std::vector<float> vectors(Pixels images) const override {
    return in_parts(images, [](auto& step, const Net& m, auto x) { return m.encoder(step, x); });
  }
  std::vector<float> reconstruct(Pixels images) const override {
    return in_parts(images, [](auto& step, const Net& m, auto x) { return m.decoder(step, m.quantize(step, x).values); });
  }
  std::vector<float> decode(const Codes& codes, long images) const override {
    Session session(trainer.weights(), Cpu(threads()));
    const long each = codes_per_image(), part = part_size();
    if (long(codes.size()) != images * each) fail("expected ", images * each, " codes for ", images, " images, found ", codes.size());
    std::vector<float> all;
    for (long first = 0; first < images; first += part) {
      const long rows = std::min(part, images - first);
      const auto some = session.run(rows, image(), nullptr, nullptr, 0, [&](auto& step, const Net& m, const auto& batch) {
        return m.decoder(step, m.quantizer.template lookup<VqEncoder::makes>(step, batch.space, m.code_shape(), codes.data() + first * each));
      });
      all.insert(all.end(), some.begin(), some.end());
    }
    return all;
  }
  const std::vector<CodebookMonitor<float>::Epoch>& epochs() const override { return monitor.epochs; }
  std::vector<float> codebook() const override {
    const auto& q = net().quantizer;
    const AnyQuantizer::Vq* vq = q.kind == AnyQuantizer::Kind::vq ? &q.vq : q.kind == AnyQuantizer::Kind::low_vq ? &q.low_vq.quantizer : nullptr;
    if (!vq) return {};
    std::vector<float> table;
    Session session(trainer.weights(), Cpu(1));
    session.run(1, image(), nullptr, nullptr, 0, [&](auto& step, const Net&, const auto&) {
      const float* codes = vq->table(step);
      table.assign(codes, codes + vq->codebook.size());
      return detail::known(step, 0);
    });
    return table;
  }

 private:
  const Net& net() const { return trainer.weights().model; }
  /// Images at a time: about 64 MB of activations.
  long part_size() const { return std::clamp<long>((1L << 24) / (long(image().size()) * 16 + 1), 1, 256); }
  template <class F>
  std::vector<float> in_parts(Pixels images, F f) const {
    const long features = image().size(), count = long(images.size()) / features, part = part_size();
    Session session(trainer.weights(), Cpu(threads()));
    std::vector<float> all;
    for (long first = 0; first < count; first += part) {
      const long rows = std::min(part, count - first);
      const auto some = session.run(rows, image(), images.data() + first * features, nullptr, 0,
                                    [&](auto& step, const Net& m, const auto& batch) { return f(step, m, input<Net::takes>(step, batch)); });
      all.insert(all.end(), some.begin(), some.end());
    }
    return all;
  }

  mutable Trainer<Net, Adam, Cpu> trainer;
  CodebookMonitor<float> monitor;
};

}  // namespace

std::unique_ptr<Model> make_model(const Options& o, Shape image) {
  const VqNetwork network{int(o.halvings), int(o.width), int(o.hidden), int(o.blocks), int(o.code_width)};
  return std::make_unique<NetModel>(Net{VqEncoder(image, network), quantizer_of(o), VqDecoder(image.channels, network), {float(o.l1)}}, o);
}

}  // namespace vqvae
