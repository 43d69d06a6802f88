"""The models of one pipeline on MLflow's page of models: made, found finished, or scored."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tasks.core.tracking.client import MODELS, never_fail
from tasks.core.tracking.models import registry, scores, view
from tasks.core.tracking.models.scores import Figure
from tasks.core.tracking.unsent import keep_model, keep_scores, model_run, send

if TYPE_CHECKING:
    from tasks.core.tracking.tracker import Tracker

ALL_TITLE = "all models, newest first"


class ShownModels:
    """Flat runs of models, with what is known of them."""

    def __init__(self, tracker: "Tracker") -> None:
        self.tracker = tracker
        self.runs: dict[str, str] = {}
        """Run of each model, by the key of its stage."""
        self.sft: dict[str, float] = {}
        """Mean accuracy of each SFT model that was scored, by its key."""
        self._benchmarks: set[str] = set()
        """Metrics that such a mean is of."""
        self.incomplete = False

    @property
    def name(self) -> str:
        """Name that the models are registered under, and that their view has: that of the
        configuration, also where several models of it are compared."""
        return str(self.tracker.config.get("name") or self.tracker.pipeline)

    @property
    def views(self) -> list[str]:
        """Views that show these models, the one that stays as it is first."""
        own = [view.view_of_runs(self.name, self.runs.values())] if self.runs else []
        return [*own, view.slug(self.name)]

    @property
    def _client(self) -> Any:
        return self.tracker.client

    def add(self, key: str, run_id: str) -> None:
        """Let the page show a model that is being trained."""
        self.runs[key] = run_id
        self.save_views()

    @never_fail
    def found(self, manifest: Mapping[str, Any]) -> None:
        """Show a model that stood finished; one that this MLflow lacks is made up for."""
        if manifest.get("stage") not in registry.ROLES:
            return
        key = manifest["key"]
        run_id = model_run(self.tracker, key)
        if run_id is None:
            keep_model(self.tracker.store, manifest, self.tracker.shown_uri)
            send(self.tracker)
            run_id = model_run(self.tracker, key)
        if run_id is not None:
            self.runs[key] = run_id

    def scores(self, model: Mapping[str, Any], evaluation: Mapping[str, Any]) -> None:
        """Figures of an evaluation, into the flat run of the model. Both are stages' manifests."""
        of_model = scores.figures(evaluation)
        if "key" not in model or not of_model:
            return
        self.incomplete = False
        self._scores(model, of_model)
        if self.incomplete:
            keep_scores(self.tracker.store, model["key"], scores.kept(of_model))

    @never_fail
    def _scores(self, model: Mapping[str, Any], of_model: list[Figure]) -> None:
        key = model["key"]
        run_id = self.runs.get(key) or model_run(self.tracker, key)
        if run_id is None:
            return
        self.runs[key] = run_id
        mean = scores.mean_accuracy(of_model)
        if model.get("stage") == "sft" and mean is not None:
            self.sft[key] = mean
            self._benchmarks = scores.with_intervals(of_model)
        self.log_scores(run_id, key, of_model)

    def log_scores(self, run_id: str, key: str, of_model: list[Figure]) -> None:
        """Figures of a model, into its run and its logged model. Raises what MLflow does."""
        logged = self._logged(key)
        scores.log_figures(self._client, run_id, of_model, logged and logged.model_id)

    def finished(self, run_id: str, folder: Any, manifest: Mapping[str, Any]) -> None:
        """Log the kept checkpoints of a finished training, and register its model.

        folder: of the stage, published. Raises what MLflow does.
        """
        run = self._client.get_run(run_id)
        registry.log_models(self._client, run, folder, manifest, self.name)
        self.runs[manifest["key"]] = run_id
        self._register(manifest["key"], None)

    @never_fail
    def close(self) -> None:
        """Register the models that were found, too; name the best SFT model; save the views.

        One model of a comparison leaves that to the comparison, which has all of them.
        """
        if self.tracker.parent_run is not None:
            return
        best = self._best_sft()
        for key in self.runs:
            self._register(key, best)
        if best is not None and best not in self.runs:
            registry.name_best(self._client, self.name, best)
        if self.runs:
            self.save_views()

    def _register(self, key: str, best: str | None) -> None:
        logged = self._logged(key)
        if logged is None:
            return
        alias = logged.model_type if logged.model_type in registry.ALIASES else None
        alias = registry.BEST_SFT if key == best else alias
        registry.register(self._client, self.name, logged, self.runs[key], alias)

    def _best_sft(self) -> str | None:
        """Key of the best SFT model: among those scored now, and the versions registered before
        that have an accuracy on the same benchmarks."""
        means = dict(self.sft)
        for version in registry.versions(self._client, self.name) if means else ():
            key = version.tags.get("steel.key", "")
            if version.tags.get("steel.stage") == "sft" and key not in means:
                metrics = self._client.get_run(version.run_id).data.metrics
                if self._benchmarks <= metrics.keys():
                    values = [metrics[name] for name in self._benchmarks]
                    means[key] = sum(values) / len(values)
        return max(means, key=lambda key: means[key], default=None)

    def _logged(self, key: str) -> Any | None:
        return registry.final_model(self._client, self.tracker.experiment(MODELS), key)

    @never_fail
    def save_views(self) -> None:
        """Save the page's charts for all models, and for those of this pipeline."""
        view.save_view(self._client, view.ALL, ALL_TITLE)
        if self.tracker.parent_run is None:
            title = f"{self.name}: models of the last run"
            runs = list(dict.fromkeys(self.runs.values()))
            view.save_view(self._client, view.slug(self.name), title, runs)

    @never_fail
    def save_own_view(self) -> None:
        """Save the view of these models that no later run changes, when all of them are known."""
        runs = list(dict.fromkeys(self.runs.values()))
        if runs:
            view.save_view_of_runs(self._client, self.name, runs)
