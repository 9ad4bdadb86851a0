"""What a learned ring is held against: a closed form, a hand-built attractor, a plain RNN."""

from lv_neuro.baselines.analytic import AnalyticRing
from lv_neuro.baselines.attractor import RingAttractor
from lv_neuro.baselines.rnn import SinCosRnn
from lv_neuro.baselines.rnn_settings import RnnSettings
from lv_neuro.baselines.rnn_training import RnnTrainer

__all__ = ["AnalyticRing", "RingAttractor", "RnnSettings", "RnnTrainer", "SinCosRnn"]
