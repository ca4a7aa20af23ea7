"""Runs another script with ddtrace's memory profiler, and nothing else of ddtrace, started before it. No agent is needed:
what was collected would be sent for the first time long after the measurement is over."""
import os
import runpy
import sys

# Read when ddtrace is imported.
os.environ.update({
    "DD_TRACE_ENABLED": "false",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_CRASHTRACKING_ENABLED": "false",
    "DD_PROFILING_STACK_ENABLED": "false",
    "DD_PROFILING_LOCK_ENABLED": "false",
    "DD_PROFILING_PYTORCH_ENABLED": "false",
    "DD_PROFILING_MEMORY_ENABLED": "true",
    "DD_PROFILING_UPLOAD_INTERVAL": "3600",
})


def main():
    import ddtrace.profiling
    from ddtrace.profiling.collector import _memalloc

    ddtrace.profiling.Profiler().start()
    # It raises where it was not started: then this run would measure nothing.
    _memalloc.heap()
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


main()
