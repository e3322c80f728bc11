"""The judging of a run: from its figures to a verdict, sentences, and what to change. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from lora_diffusion.errors import printable
from trainers.explain.record import Measurement, Record
from trainers.spec import JobSpec
from trainers.validation.findings import Finding

Fit = Literal["under", "good", "over", "diverged", "unknown"]
# It has learned hardly anything above this share of the base's loss; got worse by so much since the
# best; learns on where so much of what it learned came in the second half.
_HARDLY, _WORSE, _LATE = 0.97, 1.01, 0.2
_CLASS_RISE = 1.05
_LEAKS, _LEAKS_MUCH = 0.6, 0.75
_USUAL_RANK = 16
_MEASUREMENTS = 10
"""Into so many a run is divided where none was asked for."""


@dataclass(frozen=True)
class Advice:
    """One change to make.

    Attributes:
        setting: `section.field`, or empty for what is no setting.
        before, after: its value, and the value to try, as on the command line.
        text: the reason, a sentence.
    """

    setting: str
    before: str
    after: str
    text: str


class Verdict:
    """Fills in the verdict's parts one after the other."""

    def __init__(self, spec: JobSpec, told: Record, pictures: Sequence[Finding]) -> None:
        self.spec, self.told, self.pictures = spec, told, list(pictures)
        self.fit: Fit = "unknown"
        self.leaks: bool | None = None
        self.headline = ""
        self.says: list[str] = []
        self.advice: list[Advice] = []

    def judge(self) -> None:
        told = self.told
        if not told.losses:
            self.headline = "No step was done yet, so there is nothing to explain."
            return
        if told.left_out:
            self._left_out()
        after = told.after_base
        if not after:
            self._unmeasured()
        elif after[-1].share is not None:
            self._by_held_out(after)
        else:
            self._by_trained(after)
        if after:
            self._leak(after[-1])
            self._class(after[-1])
            self._of_pictures()
        self._ending()

    def _advise(self, setting: str, after: object, text: str) -> None:
        """Advice to change a setting, unless there is some for it already."""
        if any(each.setting == setting for each in self.advice):
            return
        section, _, name = setting.partition(".")
        before = getattr(getattr(self.spec, section), name)
        self.advice.append(Advice(setting, _shown(before), _shown(after), text))

    def _hint(self, text: str) -> None:
        self.advice.append(Advice("", "", "", text))

    def _left_out(self) -> None:
        left_out, steps = self.told.left_out, len(self.told.losses)
        self.says.append(f"{left_out} of {steps} steps were left out: their loss was not finite.")
        self._advise(
            "optim.lr_unet", self._rate(1 / 3), "Steps that are not finite come of a high rate."
        )

    def _unmeasured(self) -> None:
        """Without validation there is the noisy loss of the steps only."""
        losses = [loss for _, loss in sorted(self.told.losses.items()) if loss is not None]
        tenth = max(1, len(losses) // 10)
        self.headline = "Nothing was measured on fixed noise, so the fit is not known."
        if losses:
            first, last = fmean(losses[:tenth]), fmean(losses[-tenth:])
            self.says.append(
                f"The loss of the steps went from {first:.4g} to {last:.4g} (means of the first "
                "and the last tenth). Each step draws its own noise, so little follows from that."
            )
        every = max(1, (self.told.total_steps or len(losses)) // _MEASUREMENTS)
        self._advise(
            "validation.every_steps",
            every,
            "Then the loss is measured on fixed noise, also on pictures that are not trained.",
        )

    def _by_held_out(self, after: Sequence[Measurement]) -> None:
        known = [m for m in after if m.share is not None and m.smooth is not None]
        last, best = known[-1], min(known, key=lambda m: m.smooth or 0)
        share, trained = last.share or 1.0, last.trained_share or 1.0
        self.says.append(
            f"On held-out pictures the loss is {share:.0%} of the base's, on trained ones "
            f"{trained:.0%}; the best on held-out pictures was at step {best.step}."
        )
        if share >= 1 / _HARDLY and trained >= 1 / _HARDLY:
            self._diverged()
        elif trained > _HARDLY:
            self._hardly(trained)
        elif best.step < last.step and (last.smooth or 0) > _WORSE * (best.smooth or 0):
            self.fit = "over"
            rise = (last.smooth or 0) / (best.smooth or 1) - 1
            self.headline = (
                f"Over-fit since step {best.step}: since then the smoothed loss on held-out "
                f"pictures has risen by {rise:.1%}, while that on trained ones fell."
            )
            self._shorter(best.step)
        elif share >= _HARDLY:
            self.fit = "over"
            self.headline = (
                "Over-fit from the start: what it learns of its pictures does not carry over to "
                "others like them."
            )
            self._advise("optim.lr_unet", self._rate(0.5), "Slower learning generalises better.")
            self._hint(
                "Add pictures that differ in what is not the subject, and say so in captions."
            )
        else:
            self._still_falling([(m.step, m.share or 1.0) for m in known], "held-out")

    def _by_trained(self, after: Sequence[Measurement]) -> None:
        """Nothing was held out: the loss on trained pictures tells of too little only."""
        last = after[-1]
        trained = last.trained_share
        if trained is None:
            self.headline = "The measurements have no finite figures, so the fit is not known."
            return
        self.says.append(
            f"On trained pictures the loss is {trained:.0%} of the base's. No picture was held "
            "out, so nothing tells learning from memorising."
        )
        if trained >= 1 / _HARDLY:
            self._diverged()
        elif trained > _HARDLY:
            self._hardly(trained)
        else:
            known = [(m.step, m.trained_share or 1.0) for m in after]
            self._still_falling(known, "trained")
            if self.fit == "good":
                self.fit = "unknown"
                self.headline = (
                    "It has learned its pictures; whether it memorised them is not known."
                )
                self._advise(
                    "validation.hold_out",
                    max(1, self.told.pictures // _MEASUREMENTS),
                    "Pictures that are not trained tell learning from memorising.",
                )

    def _diverged(self) -> None:
        self.fit = "diverged"
        self.headline = "It diverged: the loss is above the base's, on trained pictures too."
        self._advise("optim.lr_unet", self._rate(0.3), "The rate is too high for this base.")
        if self.spec.optim.lr_warmup_ratio < 0.05 and not self.spec.optim.lr_warmup_steps:
            self._advise("optim.lr_warmup_ratio", 0.05, "A rate that rises slowly does no harm.")

    def _hardly(self, trained: float) -> None:
        self.fit = "under"
        self.headline = (
            f"Under-fit: even on trained pictures the loss is still {trained:.0%} of the base's."
        )
        self._advise("optim.lr_unet", self._rate(3), "The adapter has hardly moved.")
        self._longer(2)

    def _still_falling(self, shares: Sequence[tuple[int, float]], which: str) -> None:
        """Good, or under-fit where much of what was learned came in the second half."""
        end, last = shares[-1]
        half = min(shares, key=lambda each: abs(each[0] - end / 2))[1]
        late = (half - last) / (1 - last) if last < 1 else 0.0
        if len(shares) >= 2 and late > _LATE:
            self.fit = "under"
            self.headline = (
                f"Under-fit: {late:.0%} of what it learned of {which} pictures came in the second "
                "half, so there is more to learn."
            )
            self._longer(1.5)
            return
        self.fit = "good"
        self.headline = f"A good fit: the loss on {which} pictures fell and has levelled off."

    def _shorter(self, best_step: int) -> None:
        if self.told.best and isinstance(self.told.best.get("file"), str):
            self._hint(
                f"Use {printable(self.told.best['file'], 200)}: it has the weights of step "
                f"{best_step}."
            )
        self._advise("schedule.steps", best_step, "That is where held-out pictures were best.")
        if not self.told.class_pictures and self.spec.data.trigger:
            self._hint("More pictures, and more varied ones, put over-fitting off the furthest.")
        if self.spec.adapter.rank > _USUAL_RANK:
            self._advise(
                "adapter.rank", self.spec.adapter.rank // 2, "Less room leaves less to memorise."
            )

    def _longer(self, times: float) -> None:
        steps = round(self.told.total_steps * times)
        self._advise("schedule.steps", steps, "It had not finished learning.")

    def _leak(self, last: Measurement) -> None:
        if last.leak is None or last.moved is None:
            return
        self.leaks = last.leak >= _LEAKS
        amount = (
            f"without the trigger predictions move {last.leak:.0%} as far from the base's as with "
            f"it ({last.moved:.0%} of their size)"
        )
        if not self.leaks:
            self.says.append(f"It keeps to its trigger: {amount}.")
            return
        much = "Leaks much" if last.leak >= _LEAKS_MUCH else "Leaks"
        self.says.append(f"{much}: {amount}.")
        data = self.spec.data
        if not self.told.class_pictures:
            prompts = data.class_prompts
            if prompts or data.class_folder:
                self._advise("data.class_pictures", max(20, 3 * self.told.pictures), _KEEPS)
            else:
                self._hint(
                    "Add class pictures, for example --data.class_pictures "
                    f"{max(20, 3 * self.told.pictures)} --data.class_prompts '[\"a photo of a "
                    "dog\"]' with the subject's class in place of the dog. " + _KEEPS
                )
        else:
            self._advise("objective.prior_weight", 2 * self.spec.objective.prior_weight, _KEEPS)
        if self.spec.trains_text:
            rate = self.spec.optim.lr_text / 2
            self._advise(
                "optim.lr_text", float(f"{rate:.3g}"), "The text encoder spreads it to other words."
            )

    def _class(self, last: Measurement) -> None:
        share = last.class_share
        if share is None:
            return
        if share <= _CLASS_RISE:
            self.says.append(f"On class pictures the loss is {share:.0%} of the base's: kept.")
            return
        self.says.append(
            f"It forgets its class: on class pictures the loss is {share:.0%} of the base's."
        )
        self._advise("objective.prior_weight", 2 * self.spec.objective.prior_weight, _KEEPS)

    def _of_pictures(self) -> None:
        kinds = Counter(finding.kind for finding in self.pictures)
        trained = self.told.pictures
        if kinds["memorised"] > max(2, trained // 2):
            self.pictures = [each for each in self.pictures if each.kind != "memorised"]
            self.says.append(
                f"{kinds['memorised']} of the trained pictures are far better known than held-out "
                "ones: the set is being memorised as a whole."
            )
        elif kinds["memorised"]:
            self._hint(
                "Show memorised pictures less often: fewer repeats, or a folder of their own."
            )
        if kinds["caption"]:
            self._hint(f"Check {_count(kinds['caption'], 'caption')}: see the pictures above.")
        if kinds["stays-high"]:
            self._hint(
                f"Look at {_count(kinds['stays-high'], 'picture')} whose loss stays high; take out "
                "what does not belong."
            )

    def _ending(self) -> None:
        told = self.told
        outcome = told.outcome
        if outcome is not None and outcome.kind == "failed":
            self.says.append(f"The run failed: {printable(outcome.body.get('text', ''), 300)}")
        early = outcome.body.get("stopped_early") if outcome is not None else None
        if early:
            self.says.append(f"It ended early. {printable(early, 400)}")
        if told.warnings:
            self.says.append(
                f"The look at the pictures warned of {_count(told.warnings, 'thing')}: "
                f"lora-diffusion doctor {printable(self.spec.data.folder, 200)} lists them."
            )

    def _rate(self, times: float) -> float:
        return float(f"{self.spec.optim.lr_unet * times:.2g}")


_KEEPS = "That holds the base to what it draws without the trigger."


def _shown(value: object) -> str:
    if value is None:
        return "unset"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
