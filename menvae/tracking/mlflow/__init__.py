"""The MLflow tracker; importing this package registers it without importing MLflow."""

from menvae.tracking.mlflow.tracker import MLflowTracker as MLflowTracker
