"""The folder of a pretraining run: every name in it stands here and nowhere else.

    STORE/pretrain/KEY.partial/
      plan.json                  prediction that the stage started with
      pretrain.json              job: settings, folders of input and output
      journal.json               appended data and changes of the length, in order
      requests/                  pending requests, one JSON file each
        refused/                 not done, with the reason
      manifests/                 lists of the shards trained on: base.json, <digest>.json
      checkpoints/step-00000120/
        trainer.json             step, batch, length, health
        data_state.json          position in the data
      exports/step-00000120/     checkpoints as Transformers folders
      model/                     the trained model, written after the last step
      metrics.jsonl              measurements by step
      health.jsonl               skipped batches, rollbacks
      sessions.jsonl             each time that processes took up the run
      profile/step-00000010/     traces, one file a rank
      ranks/                     phase and step of each rank while it trains
      lease/                     which session may write here (model/train/run/lease.py)
        00000007.json            claim of session 7
        00000007-5be2…/          folder of the newest session: what it prepares, and
          verified/                shards that it compared with their checksums
          export.json              job of the export that runs, or ran last; its log beside it

Fine-tuning writes `metrics.jsonl` and `model/` under the same names, and

      mixture.jsonl              samples that were drawn, as texts
      prepared.json              rows that are trained on, cut, and left out, by set
      left_out.jsonl             each row that is left out, and why
"""

JOB_FILE = "pretrain.json"
PLAN_FILE = "plan.json"
JOURNAL_FILE = "journal.json"
REQUESTS_FOLDER = "requests"
REFUSED_FOLDER = "refused"
MANIFESTS_FOLDER = "manifests"
CHECKPOINTS_FOLDER = "checkpoints"
PROGRESS_FILE = "trainer.json"
DATA_STATE_FILE = "data_state.json"
EXPORTS_FOLDER = "exports"
EXPORT_JOB_FILE = "export.json"
MODEL_FOLDER = "model"
METRICS_FILE = "metrics.jsonl"
HEALTH_FILE = "health.jsonl"
SESSIONS_FILE = "sessions.jsonl"
PROFILE_FOLDER = "profile"
RANKS_FOLDER = "ranks"
LEASE_FOLDER = "lease"
VERIFIED_FOLDER = "verified"
MIXTURE_FILE = "mixture.jsonl"
PREPARED_FILE = "prepared.json"
LEFT_OUT_FILE = "left_out.jsonl"
