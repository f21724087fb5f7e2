// A Model of one kind of network: what both kinds share.
#pragma once

#include <vaelib/backend/cpu/bfloat16.hpp>
#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/io/weights_file.hpp>
#include <vaelib/models/vq_networks.hpp>
#include <vaelib/models/vq_vae.hpp>
#include <vaelib/train/session.hpp>

#include "any_quantizer.hpp"
#include "model.hpp"

namespace vqvae {

using namespace vaelib;

/// mean (y - x)^2, or weight * mean |y - x|
struct Reconstruction {
  float l1 = 0;
  template <class S, class V>
  auto operator()(S& step, V output, V target) const {
    if (l1 <= 0) return SquaredError{}(step, output, target);
    return map_few(step, ScaleBy{l1}, AbsoluteError{}(step, output, target));
  }
};

inline VqNetwork network_of(const Options& o) { return {int(o.halvings), int(o.width), int(o.hidden), int(o.blocks), int(o.code_width)}; }
AnyQuantizer quantizer_of(const Options& options);
std::unique_ptr<Model> make_gan_model(const Options& options, Shape image, PerceptualNetwork network, std::int64_t most);

/// The network, unless it has more numbers than `most`.
template <class Net>
Net within(Net net, std::int64_t most) {
  net.build();
  Layouter layout;
  net.fields(layout);
  std::int64_t numbers = 0;
  for (const auto& [name, p] : layout.parameters) numbers += p.size();
  for (const auto& [name, s] : layout.states) numbers += s.size();
  if (numbers > most)
    fail("its options make a model of ", numbers, " numbers, more than the ", most, " that the file has");
  return net;
}

template <class Net>
class NetModel : public Model {
 public:
  NetModel(Net net, Adam adam, const Options& o)
      : trainer(std::move(net), adam, Cpu(int(o.threads), o.use_amp ? bfloat16_precision : single_precision), o.seed), monitor(trainer.weights()) {}

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

  Seen look(Pixels images, Look how) const override {
    const long features = image().size(), count = long(images.size()) / features, part = part_size();
    Session session(trainer.weights(), Cpu(threads()));
    Seen seen;
    const auto append = [](auto& all, const auto* first, long n) { all.insert(all.end(), first, first + n); };
    for (long first = 0; first < count; first += part) {
      const long rows = std::min(part, count - first);
      const auto last = session.run(rows, image(), images.data() + first * features, nullptr, 0, [&](auto& step, const Net& m, const auto& batch) {
        const auto z = m.encoder(step, input<Net::takes>(step, batch));
        append(seen.vectors, z.value(), z.size());
        const auto q = m.quantizer.quantize(step, z);
        append(seen.codes, q.codes, q.vectors * per_vector());
        append(seen.latents, q.values.value(), q.values.size());
        return how == Look::at_images ? m.decoder(step, q.values) : q.values;
      });
      if (how == Look::at_images) append(seen.images, last.data(), long(last.size()));
    }
    return seen;
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

 protected:
  mutable Trainer<Net, Adam, Cpu> trainer;
  CodebookMonitor<float> monitor;
};

}  // namespace vqvae
