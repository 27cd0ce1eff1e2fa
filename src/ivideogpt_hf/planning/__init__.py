"""Planning by sampling: planners over any cost of action sequences, and costs of predicted futures."""
