#include "net_model.hpp"

namespace vqvae {

namespace {

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

}  // namespace

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

std::unique_ptr<Model> make_model(const Options& o, Shape image, PerceptualNetwork network, std::int64_t most) {
  if (adversarial(o)) return make_gan_model(o, image, std::move(network), most);
  using Net = VqVae<VqEncoder, AnyQuantizer, VqDecoder, Reconstruction>;
  const auto size = network_of(o);
  Net net{VqEncoder(image, size), quantizer_of(o), VqDecoder(image.channels, size), {float(o.l1)}};
  return std::make_unique<NetModel<Net>>(within(std::move(net), most), Adam{.learning_rate = float(o.lr)}, o);
}

}  // namespace vqvae
