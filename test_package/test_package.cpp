#include <vaelib/vae.hpp>

int main() {
  vaelib::data::Shapes images{.image_size = 16, .images = 512};
  vaelib::Trainer trainer{vaelib::models::fc_vae(images.shape(), 32, 4)};
  auto history = trainer.fit(images, {.epochs = 2});
  vaelib::save("vae.safetensors", trainer.weights());
  return history.back().train_loss < history.front().train_loss ? 0 : 1;
}
