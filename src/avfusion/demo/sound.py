"""The sound of a demo video: what its events sound like, over hiss and knocks that mean nothing."""

import numpy as np
from numpy.typing import NDArray

from avfusion.demo.scenes import Event, Scene
from avfusion.seeding import derive

Samples = NDArray[np.float32]
LEVEL = 0.12  # root mean square of an action's sound at a gain of 1, full scale being 1


def samples(scene: Scene) -> Samples:
    """Make the sound of a video: float32 (channels, samples), -1 to 1.

    It is as long as the picture, to the nearest sample.
    """
    random = np.random.default_rng(derive(scene.seed, "sound"))
    count = round(scene.duration * scene.sample_rate)
    mix = np.zeros((2, count))
    mix += _hiss(scene, count, random)
    mix += _knocks(scene, count, random)
    for event in scene.events:
        if event.sound is None:
            continue
        first = max(int((event.sound.start - event.sound.ramp) * scene.sample_rate), 0)
        last = min(int((event.sound.end + event.sound.ramp) * scene.sample_rate) + 1, count)
        times = np.arange(first, last) / scene.sample_rate
        sound = LEVEL * event.gain * event.sound.level(times) * voice(event, times, random)
        angle = np.pi / 4 * (1 + event.pan)
        mix[:, first:last] += np.sqrt(2) * np.array([[np.cos(angle)], [np.sin(angle)]]) * sound
    if scene.channels == 1:
        mix = mix.mean(axis=0, keepdims=True)
    return np.clip(mix, -0.99, 0.99).astype(np.float32)


def voice(event: Event, times: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """An event's sound at full level, about 1 root mean square, at `times` in seconds (evenly spaced).

    It beats twice in each cycle of the motion. A beat is a burst; what sounds in the burst is the class's.
    """
    beat = 2 * (event.tempo * (times - event.start) + event.phase)
    within = beat % 1
    age = within / (2 * event.tempo)  # seconds since the burst began
    match event.action.sound:
        case "beep":
            wave = np.sin(2 * np.pi * 850 * event.pitch * times) * _burst(within, 0.5)
        case "rasp":
            rate = 1 / (times[1] - times[0])
            wave = 1.2 * _band(random.standard_normal(len(times)), rate, 1800, 4500) * _burst(within, 0.5)
        case "chirp":
            low, rise = 400 * event.pitch, 5000 * event.pitch
            wave = np.sin(2 * np.pi * (low * age + rise / 2 * age**2)) * _burst(within, 0.75)
        case "hum":
            tone = 2 * np.pi * 110 * event.pitch * times
            wave = sum(np.sin(n * tone) / n for n in range(1, 9)) * (0.6 + 0.4 * np.cos(2 * np.pi * beat))
        case other:
            raise ValueError(f"no such sound: {other}")
    return 1.7 * wave


def _burst(within: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Loudness within a beat (0 to 1): on for `share` of it, with short flanks so that nothing clicks."""
    return np.clip(np.minimum(within, share - within) / 0.05, 0, 1)


def _band(noise: NDArray[np.float64], rate: float, low: float, high: float) -> NDArray[np.float64]:
    """Noise between two frequencies in Hz, scaled to 1 root mean square."""
    spectrum = np.fft.rfft(noise)
    frequencies = np.fft.rfftfreq(len(noise), 1 / rate)
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    band = np.fft.irfft(spectrum, len(noise))
    return band / max(float(np.sqrt(np.mean(band**2))), 1e-9)


def _hiss(scene: Scene, count: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Pink noise whose loudness wanders by about 3 dB."""
    length = 1 << 18  # about 6 s, repeated without a seam: the inverse transform is periodic
    spectrum = np.fft.rfft(random.standard_normal((2, length)))
    frequencies = np.fft.rfftfreq(length, 1 / scene.sample_rate)
    loop = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequencies, 40)), length)
    loop /= np.sqrt(np.mean(loop**2))
    noise = np.tile(loop, -(-count // length))[:, :count]
    times = np.arange(count) / scene.sample_rate
    wander = 3 * np.sin(2 * np.pi * (random.uniform(0.05, 0.2) * times + random.uniform()))
    return LEVEL * 10 ** ((scene.hiss + wander) / 20) * noise


def _knocks(scene: Scene, count: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Short decaying knocks of random pitch at random times."""
    mix = np.zeros((2, count))
    times = np.arange(int(0.08 * scene.sample_rate)) / scene.sample_rate
    for _ in range(random.poisson(scene.clicks * scene.duration)):
        first = int(random.uniform(0, max(count - len(times), 1)))
        tone = np.sin(2 * np.pi * random.uniform(150, 3000) * times) * np.exp(-times / 0.012)
        pan = random.uniform(0.2, 1, size=2)[:, None]
        piece = (LEVEL * 2 * pan * tone)[:, : count - first]
        mix[:, first : first + piece.shape[1]] += piece
    return mix
