"""The MLflow tracker; importing this package registers it, and does not import MLflow."""

from menvae.tracking.mlflow.tracker import MLflowTracker as MLflowTracker
