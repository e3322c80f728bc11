"""The score of pictures: a pure function of the weights, and what it says."""

from __future__ import annotations

import pytest
import torch

from lora_diffusion import bundled
from lora_diffusion.composition.live import compose
from lora_diffusion.errors import InputError
from lora_diffusion.families import load_base
from lora_diffusion.injection import AdapterConfig, inject
from tests.conftest import fill
from trainers.data.scan import scan
from trainers.search.denoising import Denoising, share_explained
from trainers.search.scores import load_judge, toward


@pytest.fixture(scope="module")
def base():
    return load_base("bundled:demo_base")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("01.png", "01.txt", "02.png", "02.txt", "03.png", "03.txt"):
        (folder / name).write_bytes((bundled.resolve("bundled:demo_character") / name).read_bytes())
    return folder


def test_it_is_the_loss_written_out(base, pictures):
    denoising = Denoising(base, scan(pictures, default_caption=None), timesteps=2, seed=3)
    assert denoising.timesteps == [250, 750]
    losses = denoising.losses()
    assert losses.shape == (3, 2)
    assert torch.equal(losses, denoising.losses())
    abar = denoising.schedule.alphas_cumprod[750].float()
    noise = denoising._noise(2, 1)[None]
    noisy = abar.sqrt() * denoising.latents[2] + (1 - abar).sqrt() * noise
    with torch.no_grad():
        prompt = base.encode_prompts([denoising.captions[2]])
        said = base.predict(noisy, torch.tensor([750]), prompt)
    assert float(losses[2, 1]) == pytest.approx(float((said - noise).square().mean()), rel=1e-4)


def test_the_base_itself_scores_0_and_an_adapter_of_noise_less(base, pictures):
    score = toward(base, pictures, timesteps=2, seed=0)
    assert score() == pytest.approx(0)
    handle = inject(base.parts, AdapterConfig(rank=2))
    fill(handle, spread=0.3)
    file = handle.to_file("sd15")
    handle.remove()
    with compose(base, [(file, 1.0)]) as composition:
        assert score() < -0.01
        composition.set_weights("adapter", 0.0)
        assert score() == pytest.approx(0, abs=1e-6)


def test_every_timestep_counts_alike():
    of_base = torch.tensor([[10.0, 0.1], [30.0, 0.3]])
    assert share_explained(of_base, of_base) == pytest.approx(0)
    halved = of_base * torch.tensor([0.5, 1.0])
    assert share_explained(halved, of_base) == pytest.approx(0.25)


def test_pictures_without_captions_are_refused(base, tmp_path, pictures):
    (tmp_path / "a.png").write_bytes((pictures / "01.png").read_bytes())
    with pytest.raises(InputError, match="caption"):
        toward(base, tmp_path, timesteps=1, seed=0)


def test_a_function_of_the_users_is_loaded(tmp_path):
    (tmp_path / "mine.py").write_text("def bright(pictures, prompts):\n    return len(prompts)\n")
    assert load_judge(f"{tmp_path / 'mine.py'}:bright")([], ["a", "b"]) == 2
    for wrong in (f"{tmp_path / 'mine.py'}:dark", f"{tmp_path / 'no.py'}:f", "no.module:f", "x"):
        with pytest.raises(InputError, match="--score"):
            load_judge(wrong)
